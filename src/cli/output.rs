//! What commands print: tables for people, one JSON object a line for programs.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
};

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

/// Prints one record as JSON on a line of its own. JSON's escapes keep its texts as they are, and the
/// terminal too.
pub(super) fn say_json(record: &impl Serialize) -> Result<(), Failed> {
    say(json(record).map_err(|error| Failed::new(Exit::Internal, error))?)
}

/// Also escapes the disruptive characters that JSON allows as they are. They are in its strings only, and
/// each is one unit of UTF-16.
fn json(record: &impl Serialize) -> serde_json::Result<String> {
    let json = serde_json::to_string(record)?;
    Ok(replaced(&json, is_disruptive, |c| format!("\\u{:04x}", u32::from(c))))
}

/// Prints a message for the person to standard error.
pub(super) fn complain(message: &str) {
    // Nothing can be said if this fails.
    let _ = writeln!(io::stderr().lock(), "outhook: {message}");
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
        self.0.add_row(cells.into_iter().map(|cell| escaped(cell.as_ref())));
    }
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A text that stays on its line: what would end the line, steer the terminal or turn the direction of
/// reading is shown by its number, as in Rust.
pub(super) fn escaped(text: &str) -> String {
    replaced(text, is_disruptive, |c| c.escape_default().to_string())
}

/// A body, which may have lines and tabs; else as [`escaped`], and what is not UTF-8 by its bytes (`\xff`).
pub(super) fn escaped_body(body: &[u8]) -> String {
    let is_replaced = |c: char| is_disruptive(c) && !matches!(c, '\n' | '\t');
    let escape = |c: char| c.escape_default().to_string();
    let chunks = body.utf8_chunks();
    chunks
        .map(|chunk| {
            replaced(chunk.valid(), is_replaced, escape) + &chunk.invalid().escape_ascii().to_string()
        })
        .collect()
}

/// Ends a line, steers the terminal or turns the direction of reading.
fn is_disruptive(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn replaced(text: &str, is_replaced: impl Fn(char) -> bool, replace: impl Fn(char) -> String) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_replaced(c) { shown += &replace(c) } else { shown.push(c) }
    }
    shown
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
    fn a_body_keeps_its_lines_and_steers_no_terminal() {
        let body = b"{\n\t\"a\": \"\x1b]0;x\x07\r\"\n}\xc2\x9b2J\xe2\x80\xae\xff\xc3 B\xc3\xbccher";
        let shown = "{\n\t\"a\": \"\\u{1b}]0;x\\u{7}\\r\"\n}\\u{9b}2J\\u{202e}\\xff\\xc3 Bücher";
        assert_eq!(escaped_body(body), shown);
    }

    #[test]
    fn json_is_the_same_text_and_steers_no_terminal() {
        let text = "a\n\u{1b}[2J\u{7f}\u{9b}31m\u{202e}\u{2066}\u{2028} Bücher 👩‍💻 \\u{9b}";
        let shown = json(&text).expect("JSON");
        assert!(!shown.contains(is_disruptive) && shown.contains("Bücher 👩‍💻"), "{shown:?}");
        assert_eq!(serde_json::from_str::<String>(&shown).expect("JSON"), text);
    }

    #[test]
    fn what_stays_on_its_line_is_shown_as_it_is() {
        let text = r#"Bücher "50 %" C:\new 👩‍💻 שלום"#;
        assert_eq!(escaped(text), text);
    }
}
