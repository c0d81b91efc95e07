//! What the fuzz targets look for, on every input that is kept: `core/fuzz/corpus/<target>/`, a file each.
//! An input that once made a target fail becomes a file there.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

#[path = "../fuzz/properties/mod.rs"]
mod properties;

fn replay(target: &str, hold: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
    let (held, failed): (Vec<_>, Vec<_>) =
        files.partition(|file| catch_unwind(|| hold(&fs::read(file).unwrap())).is_ok());
    assert!(failed.is_empty(), "{target} does not hold for {failed:#?}");
    assert!(!held.is_empty(), "{} is empty", folder.display());
}

#[test]
fn every_event_that_is_kept_is_read_or_refused_as_promised() {
    replay("events", properties::events::hold);
}

#[test]
fn every_answer_that_is_kept_is_read_or_refused_as_promised() {
    replay("answers", properties::answers::hold);
}

#[test]
fn every_answer_that_is_kept_is_shown_without_its_secrets() {
    replay("excerpts", properties::excerpts::hold);
}

#[test]
fn every_url_that_is_kept_is_taken_apart_as_promised() {
    replay("urls", properties::urls::hold);
}
