//! What commands print: tables for people, one JSON object a line for programs.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
};

use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde::Serialize;

use crate::{
    escape::escaped_json,
    exit::{Exit, Failed},
};
pub(super) use crate::{
    escape::{escaped, escaped_body},
    logging::complain,
    moment::moment,
};

/// Prints one line. A closed pipe is no error: whoever read it has seen enough.
pub(super) fn say(line: impl AsRef<str>) -> Result<(), Failed> {
    match writeln!(io::stdout().lock(), "{}", line.as_ref()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failed::new(Exit::Internal, error)),
        _ => Ok(()),
    }
}

/// Prints one record as JSON on a line of its own. JSON's escapes keep its texts as they are, and the
/// terminal too.
pub(super) fn say_json(record: &impl Serialize) -> Result<(), Failed> {
    say(json(record).map_err(|error| Failed::new(Exit::Internal, error))?)
}

fn json(record: &impl Serialize) -> serde_json::Result<String> {
    Ok(escaped_json(&serde_json::to_string(record)?).into_owned())
}

/// A terminal narrower than this does not say how wide it really is.
const WIDTH_MIN: u16 = 40;

/// A table without lines, no wider than the terminal.
pub(super) fn table<const N: usize>(header: [&str; N]) -> Lines {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    if io::stdout().is_terminal() && table.width().is_some_and(|width| width >= WIDTH_MIN) {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    Lines(table)
}

/// The lines of a table.
pub(super) struct Lines(Table);

impl Lines {
    /// Adds a line. Its cells come from others, and must not make lines of their own or steer the terminal.
    pub(super) fn add_row<Cells>(&mut self, cells: Cells)
    where
        Cells: IntoIterator<Item: AsRef<str>>,
    {
        self.0.add_row(cells.into_iter().map(|cell| escaped(cell.as_ref()).into_owned()));
    }
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_one_line_whatever_its_cells_hold() {
        let mut lines = table(["NAME", "WHY"]);
        lines.add_row(["a\nb\r\u{1b}[2J\t\u{7f}\u{9b}31m\0", "\u{202e}txt\u{2028}"]);
        let shown = lines.to_string();
        assert_eq!(shown.lines().count(), 2, "{shown}");
        assert!(!shown.lines().any(|line| line.contains(char::is_control)), "{shown:?}");
        let row = r"a\nb\r\u{1b}[2J\t\u{7f}\u{9b}31m\u{0}";
        assert!(shown.contains(row) && shown.contains(r"\u{202e}txt\u{2028}"), "{shown}");
    }

    #[test]
    fn json_is_the_same_text_and_steers_no_terminal() {
        let text = "a\n\u{1b}[2J\u{7f}\u{9b}31m\u{202e}\u{2066}\u{2028} Bücher 👩‍💻 \\u{9b}";
        let shown = json(&text).expect("JSON");
        let stays = |c: char| !c.is_control() && !"\u{202e}\u{2066}\u{2028}".contains(c);
        assert!(shown.chars().all(stays) && shown.contains("Bücher 👩‍💻"), "{shown:?}");
        assert_eq!(serde_json::from_str::<String>(&shown).expect("JSON"), text);
    }
}
