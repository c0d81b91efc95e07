//! outhook's own tables. Times are milliseconds since the Unix epoch.

pub mod call;
pub mod daemon;
pub mod dead_letter;
pub mod event;
pub mod gate;
pub mod partition;
pub mod reply;
