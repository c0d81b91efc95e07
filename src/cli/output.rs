//! What commands print: tables for people, one JSON object a line for programs.

use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde::Serialize;

use crate::exit::{Exit, Failed};
pub(super) use crate::moment::moment;

/// Prints one line. A closed pipe is no error: whoever read it has seen enough.
pub(super) fn say(line: impl AsRef<str>) -> Result<(), Failed> {
    match writeln!(io::stdout().lock(), "{}", line.as_ref()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failed::new(Exit::Internal, error)),
        _ => Ok(()),
    }
}

/// Prints one record as JSON on a line of its own.
pub(super) fn say_json(record: &impl Serialize) -> Result<(), Failed> {
    say(serde_json::to_string(record).map_err(|error| Failed::new(Exit::Internal, error))?)
}

/// Prints a message for the person to standard error.
pub(super) fn complain(message: &str) {
    // Nothing can be said if this fails.
    let _ = writeln!(io::stderr().lock(), "outhook: {message}");
}

/// A terminal narrower than this does not say how wide it really is.
const WIDTH_MIN: u16 = 40;

/// A table without lines, no wider than the terminal.
pub(super) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    if io::stdout().is_terminal() && table.width().is_some_and(|width| width >= WIDTH_MIN) {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}
