//! How a line reads. Its text may come from anywhere, and is one line that steers no terminal.

use std::time::SystemTime;

use log::Record;

use crate::escape::escaped_in_log;

/// The most bytes of a line before it is escaped.
const LINE_BYTES_MAX: usize = 32_768;
const CUT: &str = "… (cut)";

/// The line of a record, with its end.
pub(super) fn of(record: &Record<'_>) -> String {
    let at = humantime::format_rfc3339_millis(SystemTime::now());
    let mut text = format!("[{at} {:<5} {}] {}", record.level(), record.target(), record.args());
    if text.len() > LINE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(LINE_BYTES_MAX));
        text += CUT;
    }
    let mut line = escaped_in_log(&text).into_owned();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use log::Level;

    use super::*;

    fn line(text: &str) -> String {
        of(&Record::builder().level(Level::Warn).target("outhook").args(format_args!("{text}")).build())
    }

    #[test]
    fn a_message_of_several_lines_is_one_line() {
        let line = line("one\ntwo\r\n\u{1b}[2Jthree\u{2028}\u{202e}");
        assert!(
            line.ends_with("WARN  outhook] one\\ntwo\\r\\n\\u{1b}[2Jthree\\u{2028}\\u{202e}\n"),
            "{line:?}"
        );
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_says_so() {
        let line = line(&"ü".repeat(LINE_BYTES_MAX));
        assert!(
            line.ends_with("ü… (cut)\n") && line.len() <= LINE_BYTES_MAX + CUT.len() + 1,
            "{}",
            line.len()
        );
    }
}
