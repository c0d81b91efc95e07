//! The text of a message, as long as Zulip takes it.

/// The most characters of a message: Zulip's `MAX_MESSAGE_LENGTH`, in Unicode code points.
pub const CHARACTERS_MAX: usize = 10_000;

/// What Zulip puts in place of the rest.
const CUT: &str = "\n[message truncated]";

/// A message no longer than Zulip takes it, cut where and as Zulip cuts: white space at the ends does not count.
pub fn within_limit(text: String) -> String {
    if text.len() <= CHARACTERS_MAX {
        return text;
    }
    let shown = text.trim_end().trim_start_matches('\n');
    if shown.chars().nth(CHARACTERS_MAX).is_none() {
        return shown.to_owned();
    }
    shown.chars().take(CHARACTERS_MAX - CUT.len()).chain(CUT.chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_as_zulip_cuts_it() {
        let [most, more] = [CHARACTERS_MAX, CHARACTERS_MAX + 1];
        let cut = |letter: &str| letter.repeat(CHARACTERS_MAX - 20) + "\n[message truncated]";
        let table = [
            ("soup".to_owned(), "soup".to_owned()),
            (" soup\n".to_owned(), " soup\n".to_owned()),
            ("x".repeat(most), "x".repeat(most)),
            ("x".repeat(more), cut("x")),
            // Code points count, not bytes, UTF-16 or what a person sees as one.
            ("🍲".repeat(most), "🍲".repeat(most)),
            ("🍲".repeat(more), cut("🍲")),
            ("e\u{301}".repeat(most / 2), "e\u{301}".repeat(most / 2)),
            ("e\u{301}".repeat(most), "e\u{301}".repeat(most / 2 - 10) + "\n[message truncated]"),
            // What Zulip trims is not counted.
            ("x".repeat(most) + &" \n".repeat(most), "x".repeat(most)),
            ("\n".repeat(most) + "soup", "soup".to_owned()),
            (" ".repeat(most) + "soup", " ".repeat(most - 20) + "\n[message truncated]"),
        ];
        for (text, expected) in table {
            let shown = within_limit(text);
            assert!(shown == expected, "{} characters: {:.30}", shown.chars().count(), shown);
            assert!(shown.chars().count() <= CHARACTERS_MAX);
        }
    }
}
