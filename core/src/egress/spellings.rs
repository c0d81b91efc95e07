//! Ways to write a URL, and what becomes of each. What is only a name here is decided when it has been looked
//! up; no spelling has a second chance after this one parser.

use super::*;

/// What a URL turns out to be, with no rules but the defaults.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    /// An address that may not be dialled.
    Inside,
    /// An address that may.
    Public,
    /// A name to be looked up.
    Name(String),
    Syntax,
    NoScheme,
    Scheme,
    UserInfo,
    Host,
    PortZero,
    Port,
}

fn read(text: &str) -> Read {
    let rules = Egress::default();
    let url = match rules.endpoint(text) {
        Ok(url) => url,
        Err(UrlFault::Syntax(_)) => return Read::Syntax,
        Err(UrlFault::NoScheme) => return Read::NoScheme,
        Err(UrlFault::Scheme(_)) => return Read::Scheme,
        Err(UrlFault::UserInfo) => return Read::UserInfo,
        Err(UrlFault::Host) => return Read::Host,
        Err(UrlFault::PortZero) => return Read::PortZero,
        Err(UrlFault::Port(_)) => return Read::Port,
    };
    assert_eq!(rules.endpoint(url.as_str()).as_ref(), Ok(&url), "{text}: its normal form is another URL");
    match literal(&url) {
        None => Read::Name(url.host_str().unwrap_or_default().to_owned()),
        Some(address) => match rules.permit("", SocketAddr::new(address, 80), &OwnAddresses::NONE) {
            Ok(_) => Read::Public,
            Err(_) => Read::Inside,
        },
    }
}

#[track_caller]
fn all(expected: &Read, urls: &[&str]) {
    for url in urls {
        assert_eq!(read(url), *expected, "{url:?}");
    }
}

#[test]
fn an_address_inside_is_seen_in_every_spelling() {
    all(
        &Read::Inside,
        &[
            // Numbers in other bases and other lengths.
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0X7F.1/",
            "http://0x7f.0x0.0x0.0x1/",
            "http://0177.0.0.1/",
            "http://0000177.0.0.01/",
            "http://017700000001/",
            "http://0177.0x0.1/",
            "http://127.1/",
            "http://127.0.1/",
            "http://127.65535/",
            "http://0/",
            "http://0.0.0.0/",
            "http://127.0.0.1./",
            // Letters that become digits and dots.
            "http://127。0。0。1/",
            "http://127｡0｡0｡1/",
            "http://１２７.0.0.1/",
            "http://１２７．０．０．１/",
            "http://①②⑦.⓪.⓪.①/",
            "http://𝟏𝟐𝟕.𝟎.𝟎.𝟏/",
            "http://%31%32%37.0.0.1/",
            "http://127%2E0%2E0%2E1/",
            "http://%EF%BC%91%EF%BC%92%EF%BC%97.0.0.1/",
            // Metadata services.
            "http://169.254.169.254/latest/meta-data/",
            "http://2852039166/",
            "http://0xa9fea9fe/",
            "http://0251.0376.0251.0376/",
            "http://168.63.129.16/",
            "http://100.100.100.200/",
            "http://192.0.0.192/",
            "http://[fd00:ec2::254]/",
        ],
    );
}

#[test]
fn an_address_inside_is_seen_in_every_form_of_ipv6() {
    all(
        &Read::Inside,
        &[
            "http://[::1]/",
            "http://[::]/",
            "http://[0:0:0:0:0:0:0:1]/",
            "http://[0000:0000:0000:0000:0000:0000:0000:0001]/",
            "http://[::0:1]/",
            "http://[0::0001]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::FFFF:7F00:1]/",
            "http://[0:0:0:0:0:ffff:a9fe:a9fe]/",
            "http://[::127.0.0.1]/",
            "http://[::ffff:0:127.0.0.1]/",
            "http://[64:ff9b::127.0.0.1]/",
            "http://[64:ff9b:1::a00:1]/",
            "http://[2002:7f00:1::]/",
            "http://[2001:0:7f00:1::]/",
            "http://[2a00:1450::5efe:10.0.0.1]/",
            "http://[fe80::1]/",
            "http://[FC00::1]/",
            "http://[ff02::1]/",
            "http://[100::1]/",
        ],
    );
    for zone in ["http://[fe80::1%25eth0]/", "http://[fe80::1%eth0]/", "http://[::1%251]/"] {
        assert_eq!(read(zone), Read::Syntax, "{zone}");
    }
}

#[test]
fn slashes_white_space_and_signs_do_not_hide_the_host() {
    all(
        &Read::Inside,
        &[
            "HTTP://127.0.0.1/",
            "hTTpS://127.0.0.1/",
            "http:127.0.0.1/",
            "http:/127.0.0.1/",
            "http:///127.0.0.1/",
            "http:////127.0.0.1/",
            r"http:\\127.0.0.1\",
            r"http:/\127.0.0.1/",
            " http://127.0.0.1/ ",
            "\u{1}http://127.0.0.1/",
            "ht\ttp://127.0.0.1/",
            "http://127.0\n.0.1/",
            "http://127.0.0.1\r\n/",
            "http://127.0.0.1#@allowed.example/",
            "http://127.0.0.1?@allowed.example/",
            "http://127.0.0.1/@allowed.example/",
            r"http://127.0.0.1\@allowed.example/",
            "http://127.0.0.1:80/",
            "http://127.0.0.1:/",
            "http://127.0.0.1:00080/",
        ],
    );
    let allowed = Read::Name("allowed.example".into());
    all(
        &allowed,
        &[
            "http://allowed.example#@127.0.0.1/",
            "http://allowed.example?@127.0.0.1/",
            "http://allowed.example/@127.0.0.1/",
            r"http://allowed.example\@127.0.0.1/",
            "http://allowed.example/http://127.0.0.1/",
            "http://allowed.example/..//127.0.0.1/",
        ],
    );
}

#[test]
fn a_name_has_one_spelling_when_it_is_looked_up() {
    let name = |text: &str| Read::Name(text.to_owned());
    all(
        &name("localhost"),
        &[
            "http://localhost/",
            "http://LocalHost/",
            "http://%6c%6f%63alhost/",
            "http://ｌｏｃａｌｈｏｓｔ/",
            "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
            "http://local\u{ad}host/",
            "http://local\thost/",
        ],
    );
    all(
        &name("xn--bcher-kva.example"),
        &["http://bücher.example/", "http://BÜCHER.example/", "http://xn--bcher-kva.example/"],
    );
    all(&name("bot_1.example"), &["http://bot_1.example/", "http://bot_1。example/"]);
    all(&name("bot.example."), &["http://bot.example./", "http://BOT.example./"]);
    all(&name("127.0.0.1.example"), &["http://127.0.0.1.example/"]);
    all(&Read::Public, &["http://1.1.1.1/", "http://0x1010101/", "http://[2606:4700::1111]/"]);
}

#[test]
fn what_is_no_url_of_an_endpoint_is_refused() {
    all(
        &Read::NoScheme,
        &["", " ", "127.0.0.1", "127.0.0.1:80/", "[::1]:80/", "//127.0.0.1/", "/hook", "?http://127.0.0.1/"],
    );
    all(
        &Read::Syntax,
        &[
            "http:",
            "http://",
            "http://?x",
            "http://:80/",
            "http://::1/",
            "http://[::1",
            "http://[::1]x/",
            "http://[127.0.0.1]/",
            "http://[1::2::3]/",
            "http://[:::1]/",
            "http://256.0.0.1/",
            "http://127.0.0.1.1/",
            "http://127.0.0.08/",
            "http://4294967296/",
            "http://bot.example.0x7f/",
            "http://a b/",
            "http://127.0.0.1 /",
            "http://a%20b/",
            "http://a%00b/",
            "http://127.0.0.1%00.bot.example/",
            "http://bot.example%2f@127.0.0.1:x/",
            "http://bot.example%0d%0aHost:x/",
            "http://%40127.0.0.1/",
            "http://bot.example:65536/",
            "http://bot.example:-1/",
            "http://bot.example:8o/",
            "http://bot.example:%38%30/",
            "http://bot.example:１/",
            "http://bot.example:80:80/",
        ],
    );
    all(
        &Read::Scheme,
        &[
            "localhost:80/",
            "javascript:alert(1)",
            "file:///etc/passwd",
            "file://127.0.0.1/",
            "gopher://127.0.0.1/",
            "ftp://127.0.0.1/",
            "data:text/plain,x",
            "ws://127.0.0.1/",
            "http+unix://127.0.0.1/",
            "view-source:http://127.0.0.1/",
        ],
    );
    all(
        &Read::UserInfo,
        &[
            "http://allowed.example@127.0.0.1/",
            "http://allowed.example:80@127.0.0.1/",
            "http://u:p@bot.example/",
            "http://u:@bot.example/",
            "http://@@bot.example/",
            "http://:p@bot.example/",
            "http://a@b@bot.example/",
            "http://allowed.example%2f@127.0.0.1/",
        ],
    );
    all(&Read::PortZero, &["http://bot.example:0/", "https://127.0.0.1:00/"]);
}

/// The parser drops it and nothing is requested with it, so there is nothing to refuse.
#[test]
fn user_info_that_is_empty_is_not_part_of_the_url() {
    all(&Read::Inside, &["http://@127.0.0.1/", "http://:@127.0.0.1/", "http://:@[::1]/"]);
    all(&Read::Syntax, &["http://@/", "http://:@/"]);
    for url in ["http://@1.1.1.1/hook", "http://:@1.1.1.1/hook"] {
        let read = Egress::default().endpoint(url).map(String::from);
        assert_eq!(read.as_deref(), Ok("http://1.1.1.1/hook"), "{url}");
    }
}

#[test]
fn a_refusal_says_what_to_write() {
    let told = |text: &str, ports: &[u16]| {
        let rules = Egress { ports: ports.to_vec(), ..Egress::default() };
        rules.endpoint(text).expect_err(text).to_string()
    };
    let begin = "the URL must begin with http:// or https://";
    assert_eq!(told("", &[]), begin);
    assert_eq!(told("8.8.8.8", &[]), begin);
    assert_eq!(told("bot.example:8080/hook", &[]), format!("{begin}, not with bot.example:"));
    let zero = "the URL's port must be from 1 to 65535: nothing can be reached at port 0";
    for ports in [&[][..], &[80]] {
        assert_eq!(told("http://8.8.8.8:0/", ports), zero);
    }
    assert_eq!(told("http://8.8.8.8:81/", &[80]), "port 81 is not allowed by egress.ports");
}

#[test]
fn a_host_that_dns_cannot_hold_is_refused() {
    let (label, long) = ("a".repeat(64), "a.".repeat(127));
    let longest = format!("http://{}/", "a".repeat(63));
    for url in [
        "http://a..b/",
        "http://bot.example../",
        "http://a*b.example/",
        "http://*.example/",
        "http://a!b.example/",
        "http://a,b.example/",
        &format!("http://{label}.example/"),
        &format!("http://{long}aa/"),
    ] {
        assert_eq!(read(url), Read::Host, "{url}");
    }
    assert_eq!(read(&longest), Read::Name("a".repeat(63)));
}

#[test]
fn only_the_ports_that_are_allowed_are_used() {
    let rules = Egress { ports: vec![80, 443, 8443], ..Egress::default() };
    for good in ["http://h.example", "https://h.example", "http://h.example:443", "https://h.example:8443/"] {
        assert!(rules.endpoint(good).is_ok(), "{good}");
    }
    for bad in ["http://h.example:81", "https://h.example:444/", "http://h.example:8080"] {
        assert!(matches!(rules.endpoint(bad), Err(UrlFault::Port(_))), "{bad}");
    }
}
