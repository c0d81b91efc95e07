//! Where a redirect leads. It is never followed, only shown.

use url::Url;

/// No shorter part of a path is a secret worth the name.
const SECRET_BYTES_MIN: usize = 16;

/// The place that a `Location` names, seen from the URL that was called (RFC 9110 §10.2.2). It is shown without
/// what may be a secret: user information, query and fragment.
pub(super) fn leads_to(called: &Url, location: &str) -> String {
    let Ok(mut place) = called.join(location.trim()) else { return "something that is not a URL".into() };
    place.set_query(None);
    place.set_fragment(None);
    // Only a URL that has no user information refuses this.
    let _ = place.set_username("");
    let _ = place.set_password(None);
    without_segments_of(called, place.into())
}

/// Hides what is long enough to be the secret of an endpoint: many carry it in the path, and a redirect to https
/// repeats that.
fn without_segments_of(called: &Url, mut place: String) -> String {
    for segment in
        called.path_segments().into_iter().flatten().filter(|segment| segment.len() >= SECRET_BYTES_MIN)
    {
        place = place.replace(segment, "[hidden]");
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_shown_without_secrets() {
        let called = Url::parse("https://user:key@bot.example/hooks/a?key=1#x").expect("a URL");
        for (location, expected) in [
            ("https://new.example/b", "https://new.example/b"),
            ("https://u:p@new.example:8443/b?token=2#y", "https://new.example:8443/b"),
            ("/b?token=2", "https://bot.example/b"),
            ("b", "https://bot.example/hooks/b"),
            ("//new.example", "https://new.example/"),
            ("?token=2", "https://bot.example/hooks/a"),
            ("", "https://bot.example/hooks/a"),
            (" /b ", "https://bot.example/b"),
            ("/a\u{1b}[31m\u{202e}b", "https://bot.example/a%1B[31m%E2%80%AEb"),
            ("javascript:alert(1)?x", "javascript:alert(1)"),
            ("http://[::1", "something that is not a URL"),
            ("http://u:p@:99/", "something that is not a URL"),
        ] {
            assert_eq!(leads_to(&called, location), expected, "{location}");
        }
    }

    #[test]
    fn a_secret_of_the_path_is_hidden() {
        let called = Url::parse("http://bot.example/services/T0/XXXXXXXXXXXXXXXXXXXXXXXX").expect("a URL");
        let place = leads_to(&called, "https://bot.example/services/T0/XXXXXXXXXXXXXXXXXXXXXXXX/");
        assert_eq!(place, "https://bot.example/services/T0/[hidden]/");
    }
}
