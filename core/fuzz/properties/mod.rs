//! What must hold for any bytes at all: fuzz targets search for a case where it does not, and
//! `core/tests/fuzz_corpora.rs` replays every case that was worth keeping.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each target has one of them, and fails by panicking"
)]

pub mod answers;
pub mod events;
pub mod excerpts;
pub mod urls;
