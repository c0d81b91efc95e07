//! Texts of others, shown so that they stay on their line and steer nothing.

use std::borrow::Cow;

/// A text that stays on its line: what would end the line, steer the terminal or turn the direction of
/// reading is shown by its number, as in Rust.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    replaced(text, is_disruptive, by_number)
}

/// The same for the log, where nothing may be invisible either.
pub(crate) fn escaped_in_log(text: &str) -> Cow<'_, str> {
    replaced(text, |c| is_disruptive(c) || is_invisible(c), by_number)
}

/// A body, which may have lines and tabs; else as [`escaped`], and what is not UTF-8 by its bytes (`\xff`).
pub(crate) fn escaped_body(body: &[u8]) -> String {
    let is_replaced = |c: char| is_disruptive(c) && !matches!(c, '\n' | '\t');
    let mut shown = String::with_capacity(body.len());
    for chunk in body.utf8_chunks() {
        shown += &replaced(chunk.valid(), is_replaced, by_number);
        shown += &chunk.invalid().escape_ascii().to_string();
    }
    shown
}

/// JSON without the disruptive characters that it allows as they are. They are in its strings only, and each is
/// one unit of UTF-16.
pub(crate) fn escaped_json(json: &str) -> Cow<'_, str> {
    replaced(json, is_disruptive, |c| format!("\\u{:04x}", u32::from(c)))
}

/// Ends a line, steers the terminal or turns the direction of reading.
fn is_disruptive(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
        )
}

/// Has no width of its own, so that two texts look alike. Some of these make up emoji, which tables keep.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200d}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

fn by_number(c: char) -> String {
    c.escape_default().to_string()
}

fn replaced(
    text: &str,
    is_replaced: impl Fn(char) -> bool,
    replace: impl Fn(char) -> String,
) -> Cow<'_, str> {
    if !text.contains(&is_replaced) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_replaced(c) { shown += &replace(c) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_keeps_its_lines_and_steers_no_terminal() {
        let body = b"{\n\t\"a\": \"\x1b]0;x\x07\r\"\n}\xc2\x9b2J\xe2\x80\xae\xff\xc3 B\xc3\xbccher";
        let shown = "{\n\t\"a\": \"\\u{1b}]0;x\\u{7}\\r\"\n}\\u{9b}2J\\u{202e}\\xff\\xc3 Bücher";
        assert_eq!(escaped_body(body), shown);
    }

    #[test]
    fn what_stays_on_its_line_is_shown_as_it_is() {
        let text = r#"Bücher "50 %" C:\new 👩‍💻 שלום"#;
        assert_eq!(escaped(text), text);
    }

    #[test]
    fn the_log_shows_every_control_character_by_its_number() {
        let controls = (0..0x20).chain(0x7f..0xa0);
        let others = [0xad, 0x61c, 0x180e, 0xfeff, 0xfff9, 0xe0041].into_iter();
        for code in controls.chain(0x200b..0x2010).chain(0x2028..0x202f).chain(0x2060..0x2070).chain(others) {
            let c = char::from_u32(code).expect("a character");
            let shown = escaped_in_log(&format!("a{c}b")).into_owned();
            assert_eq!(shown, format!("a{}b", c.escape_default()));
            assert!(shown.is_ascii(), "{shown:?}");
        }
        let text = r#"Bücher "50 %" C:\new שלום ❤️"#;
        assert_eq!(escaped_in_log(text), text);
    }
}
