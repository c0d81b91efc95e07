//! The table: what a hostile endpoint does, and what comes of the call.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use super::Comes::{self, Failed, Reply, Silence};
use super::peer::{Behaviour, drips, floods, resets, resets_at_once, says, says_unasked, spells, stays};
use super::tls;
use crate::support::Ending;

/// A name, what comes of it, what the endpoint speaks it in, and what it does.
pub(super) type Case = (&'static str, Comes, Layer, Behaviour);

/// What an endpoint's bytes are put in.
#[derive(Debug, Clone, Copy)]
pub(super) enum Layer {
    /// Nothing; its URL is one of http.
    Http,
    /// Nothing, where TLS is expected.
    InsteadOfTls,
    /// TLS, whose connections end so.
    Tls(Ending),
}

/// No connection is left to be used again, so that all can be counted at the end.
pub(super) const OK: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\n";
pub(super) const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n";
const UPGRADE: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
/// As much as is sent at a time in a flood.
pub(super) const MUCH: usize = 0x4000;

/// Zulip cuts at 10,000 characters.
const LONG_REPLY: &str = match std::str::from_utf8(&[b'x'; 20_000]) {
    Ok(text) => text,
    Err(_) => panic!("not ASCII"),
};

/// All of them.
pub(super) fn all() -> Vec<Case> {
    let heads = [silent(), heads(), floods_of_heads(), interim_answers(), statuses(), not_http()];
    let bodies = [chunks(), lengths(), open_ends(), ends(), bodies(), encodings()];
    heads.into_iter().chain(bodies).flatten().chain(tls::all()).collect()
}

fn http(name: &'static str, comes: Comes, behaviour: Behaviour) -> Case {
    (name, comes, Layer::Http, behaviour)
}

/// 200 with a body of this length.
pub(super) fn ok(body: impl AsRef<[u8]>) -> Vec<u8> {
    with("", body)
}

/// 200 with a body of this length and more header lines, each with its CRLF.
pub(super) fn with(lines: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    [format!("{OK}{lines}content-length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

/// 200 with this instead of the chunks of a body.
pub(super) fn chunked(chunks: impl AsRef<[u8]>) -> Vec<u8> {
    [format!("{OK}transfer-encoding: chunked\r\n\r\n").as_bytes(), chunks.as_ref()].concat()
}

pub(super) fn of(byte: u8, count: usize) -> Vec<u8> {
    vec![byte; count]
}

fn silent() -> Vec<Case> {
    const TIMEOUT: Comes = Failed(&["timeout"]);
    vec![
        http("never answers", TIMEOUT, stays("")),
        http("never reads and never answers", TIMEOUT, says_unasked("")),
        http("a head a byte a second", TIMEOUT, drips("HTTP/1.1 200 OK\r\nx: ", b"x", SECOND)),
        http("a body a byte a second", TIMEOUT, drips(chunked(""), b"1\r\n \r\n", SECOND)),
        http("a head and nothing more", TIMEOUT, stays(format!("{OK}content-length: 2\r\n\r\n"))),
        http("half a head and nothing more", TIMEOUT, stays("HTTP/1.1 200 OK\r\nx: ")),
    ]
}

fn heads() -> Vec<Case> {
    const TOO_LARGE: Comes = Failed(&["too_large"]);
    let many = |count: usize| with(&"x-header: x\r\n".repeat(count), "{}");
    let name = format!("{OK}{}: x\r\n\r\n", "x".repeat(70_000));
    vec![
        // With the two that `with` adds they are as many as may be, and one more.
        http("2,000 headers", Silence, says(many(1_998))),
        http("2,001 headers", TOO_LARGE, says(many(1_999))),
        http("10,000 headers", TOO_LARGE, says(many(10_000))),
        http("a header of 100 KB", Silence, says(with(&format!("x: {}\r\n", "x".repeat(100_000)), "{}"))),
        http("a header of 1 MB", TOO_LARGE, says(with(&format!("x: {}\r\n", "x".repeat(1_000_000)), "{}"))),
        http("a header's name of 70 KB", Silence, says(name)),
        http(
            "headers that are not UTF-8",
            Silence,
            says([OK.as_bytes(), b"x: \xff\xfe\r\ncontent-length: 2\r\n\r\n{}"].concat()),
        ),
        http(
            "a status text that is not UTF-8",
            Silence,
            says(b"HTTP/1.1 200 \xff\xfe\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"),
        ),
        http("cookies", Silence, says(with("set-cookie: a=b; path=/\r\nset-cookie: c\r\n", "{}"))),
        http("a refresh", Silence, says(with("refresh: 0; url=http://127.0.0.1/\r\n", "{}"))),
        http(
            "a connection kept and closed",
            Reply("soup"),
            says(with("connection: keep-alive, close\r\n", r#"{"content":"soup"}"#)),
        ),
        http(
            "another charset",
            Reply("ö"),
            says(with("content-type: text/html; charset=utf-16\r\n", r#"{"content":"ö"}"#)),
        ),
    ]
}

fn floods_of_heads() -> Vec<Case> {
    const TOO_LARGE: Comes = Failed(&["too_large"]);
    const STATUS: Comes = Failed(&["status"]);
    let header = format!("x-header: {}\r\n", "x".repeat(1000));
    vec![
        http("endless headers", TOO_LARGE, floods(OK, header)),
        http("an endless header", TOO_LARGE, floods(format!("{OK}x: "), of(b'x', MUCH))),
        http(
            "an endless header in drops",
            Failed(&["timeout"]),
            drips(format!("{OK}x: "), b"x", MILLISECOND),
        ),
        http("an endless status text", TOO_LARGE, floods("HTTP/1.1 200 ", of(b'x', MUCH))),
        http("endless empty lines", TOO_LARGE, floods("", "\r\n".repeat(MUCH))),
        http("endless 100 Continue", STATUS, floods("", "HTTP/1.1 100 Continue\r\n\r\n".repeat(100))),
        http("endless 103 Early Hints", STATUS, floods("", HINTS.repeat(100))),
    ]
}

fn interim_answers() -> Vec<Case> {
    const SOUP: Comes = Reply("soup");
    const STATUS: Comes = Failed(&["status"]);
    let then_soup = |interim: &str| [interim.as_bytes(), &ok(r#"{"content":"soup"}"#)].concat();
    vec![
        http("100 before the answer", SOUP, says(then_soup("HTTP/1.1 100 Continue\r\n\r\n"))),
        http("102 before the answer", SOUP, says(then_soup("HTTP/1.1 102 Processing\r\n\r\n"))),
        http("103 before the answer, in drops", SOUP, spells(then_soup(HINTS))),
        http("an unknown 1xx before the answer", SOUP, says(then_soup("HTTP/1.1 199 Soon\r\n\r\n"))),
        http(
            "a length without a body before the answer",
            SOUP,
            says(then_soup("HTTP/1.1 103 x\r\ncontent-length: 7\r\n\r\n")),
        ),
        http("16 before the answer", SOUP, says(then_soup(&HINTS.repeat(16)))),
        http("17 before the answer", STATUS, says(then_soup(&HINTS.repeat(17)))),
        http("another protocol behind one", STATUS, stays([HINTS, UPGRADE].concat())),
        http("an end behind one", Failed(&["reset"]), says(HINTS)),
        http("nothing more behind one", Failed(&["timeout"]), stays(HINTS)),
        http("garbage behind one", Failed(&["not_http"]), says([HINTS, "garbage"].concat())),
    ]
}

fn statuses() -> Vec<Case> {
    const STATUS: Comes = Failed(&["status"]);
    vec![
        http("another protocol", STATUS, floods(UPGRADE, of(b'x', MUCH))),
        http(
            "300 with a place",
            STATUS,
            says(
                "HTTP/1.1 300 Some\r\nconnection: close\r\nlocation: http://[::1]/\r\ncontent-length: 0\r\n\r\n",
            ),
        ),
        http(
            "204 with a body",
            Silence,
            floods("HTTP/1.1 204 None\r\nconnection: close\r\ncontent-length: 7\r\n\r\n", of(b'x', MUCH)),
        ),
        http("204 that announces a body", Silence, stays("HTTP/1.1 204 None\r\ncontent-length: 7\r\n\r\n")),
        http("304 that announces a body", STATUS, stays("HTTP/1.1 304 Same\r\ncontent-length: 7\r\n\r\n")),
        http("204 that announces nothing", Silence, stays("HTTP/1.1 204 None\r\nconnection: close\r\n\r\n")),
        http("304 that announces nothing", STATUS, stays("HTTP/1.1 304 Same\r\nconnection: close\r\n\r\n")),
        http("a status of four digits", Failed(&["not_http"]), says("HTTP/1.1 2000 OK\r\n\r\n")),
        http("a status below 100", Failed(&["not_http"]), says("HTTP/1.1 099 OK\r\n\r\n")),
        http(
            "a status of 999",
            STATUS,
            says("HTTP/1.1 999 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"),
        ),
    ]
}

fn chunks() -> Vec<Case> {
    const TRUNCATED: Comes = Failed(&["truncated"]);
    const TOO_LARGE: Comes = Failed(&["too_large"]);
    vec![
        http("a chunk whose size is no number", TRUNCATED, says(chunked("zz\r\n{}\r\n0\r\n\r\n"))),
        http("a chunk of negative size", TRUNCATED, says(chunked("-2\r\n{}\r\n0\r\n\r\n"))),
        http("a chunk without its end", TRUNCATED, says(chunked("2\r\n{}0\r\n\r\n"))),
        http("a chunk of 16 EiB", TRUNCATED, says(chunked("ffffffffffffffff\r\n{}"))),
        http("a chunk beyond all size", TRUNCATED, says(chunked("fffffffffffffffff\r\n{}"))),
        http("an endless extension", TOO_LARGE, floods(chunked("2;"), of(b'x', MUCH))),
        http("an endless size", TOO_LARGE, floods(chunked(""), of(b'0', MUCH))),
        http("endless trailers", Silence, floods(chunked("2\r\n{}\r\n0\r\n"), "x: y\r\n".repeat(MUCH / 4))),
        http("an endless chunk", TOO_LARGE, floods(chunked("ffffffff\r\n"), of(b' ', MUCH))),
        http("chunks of a byte", Silence, says(chunked("1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"))),
        http("chunks with trailers", Silence, says(chunked("2;a=b\r\n{}\r\n0\r\nx: y\r\n\r\n"))),
    ]
}

fn lengths() -> Vec<Case> {
    const NOT_HTTP: Comes = Failed(&["not_http"]);
    const BAD: Comes = Failed(&["bad_answer"]);
    let length = |value: &str| says(format!("{OK}content-length: {value}\r\n\r\n{{}}"));
    let two =
        |first: &str, second: &str| says(format!("{OK}{first}\r\n{second}\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"));
    vec![
        http("bytes behind the body", Silence, says([ok("{}"), of(b'x', MUCH)].concat())),
        http(
            "another answer behind the body",
            Reply("one"),
            says([ok(r#"{"content":"one"}"#), ok(r#"{"content":"two"}"#)].concat()),
        ),
        http("less than announced", Failed(&["truncated"]), length("3")),
        http("a length that is no number", NOT_HTTP, length("two")),
        http("a negative length", NOT_HTTP, length("-2")),
        http("a length with a sign", NOT_HTTP, length("+2")),
        http("a list of lengths", Silence, length("2, 2")),
        http("a list of different lengths", NOT_HTTP, length("2, 3")),
        http("a length beyond all size", NOT_HTTP, length("99999999999999999999")),
        http("a length of 16 EiB", Failed(&["too_large"]), length("18446744073709551615")),
        http("two lengths", NOT_HTTP, two("content-length: 2", "content-length: 12")),
        http("a length twice", BAD, two("content-length: 12", "content-length: 12")),
        http("a length beside chunks", Silence, two("content-length: 5", "transfer-encoding: chunked")),
        http("chunks beside a length", Silence, two("transfer-encoding: chunked", "content-length: 500")),
        http("chunks twice", Silence, two("transfer-encoding: chunked", "transfer-encoding: chunked")),
        http("chunks of something else", NOT_HTTP, two("transfer-encoding: gzip, chunked", "x: y")),
        http("no chunks of something else", NOT_HTTP, two("transfer-encoding: gzip", "x: y")),
        http("no coding twice", BAD, two("transfer-encoding: identity", "transfer-encoding: identity")),
        http(
            "chunks behind no coding",
            Silence,
            two("transfer-encoding: identity", "transfer-encoding: chunked"),
        ),
    ]
}

/// Bodies that end with their connection.
fn open_ends() -> Vec<Case> {
    const SOUP: Comes = Reply("soup");
    let open = |lines: &str, body: &[u8]| [format!("{OK}{lines}\r\n").as_bytes(), body].concat();
    let soup = br#"{"content":"soup"}"#;
    vec![
        http("neither a length nor chunks", SOUP, says(open("", soup))),
        http("the same in drops", SOUP, spells(open("", soup))),
        http("the same behind an interim answer", SOUP, says([HINTS.as_bytes(), &open("", soup)].concat())),
        http("the same compressed", SOUP, says(open("content-encoding: gzip\r\n", &gzip(soup)))),
        http(
            "the same on a connection that is to be kept",
            SOUP,
            says([b"HTTP/1.1 200 OK\r\nconnection: keep-alive\r\n\r\n".as_slice(), soup].concat()),
        ),
        http("no transfer coding, by its name", SOUP, says(open("transfer-encoding: identity\r\n", soup))),
        http("neither a length nor chunks nor a body", Silence, says(open("", b""))),
        http("half a body without a length", Failed(&["bad_answer"]), says(open("", &soup[..9]))),
        http("a body whose connection stays", Failed(&["timeout"]), stays(open("", soup))),
        http(
            "an endless body without a length",
            Failed(&["too_large"]),
            floods(open("", b""), of(b' ', MUCH)),
        ),
        http(
            "a reset behind a body without a length",
            Failed(&["truncated", "reset"]),
            resets(open("", soup)),
        ),
    ]
}

fn not_http() -> Vec<Case> {
    const NOT_HTTP: Comes = Failed(&["not_http"]);
    vec![
        http("garbage", NOT_HTTP, floods("", b"\x00\xff\x13garbage")),
        http("a TLS server", NOT_HTTP, says(b"\x15\x03\x01\x00\x02\x02\x46")),
        http("another protocol's greeting", NOT_HTTP, says("SSH-2.0-OpenSSH_9.9\r\n")),
        http("HTTP/0.9", NOT_HTTP, says(r#"{"content":"soup"}"#)),
        http("HTTP/2", NOT_HTTP, says("HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\n{}")),
        http("HTTP/3", NOT_HTTP, says("HTTP/3.0 200 OK\r\ncontent-length: 2\r\n\r\n{}")),
        http("HTTP/2's preface", NOT_HTTP, says("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
        http("a request", NOT_HTTP, says("POST / HTTP/1.1\r\nhost: x\r\n\r\n")),
        http("a header without a colon", Silence, says(format!("{OK}header\r\n\r\n"))),
        http("a header with NUL", Silence, says(format!("{OK}x: a\0b\r\n\r\n"))),
        http("a folded header", Silence, says(format!("{OK}x: a\r\n b\r\n\r\n"))),
    ]
}

fn ends() -> Vec<Case> {
    const RESET: Comes = Failed(&["reset"]);
    const TRUNCATED: Comes = Failed(&["truncated"]);
    let begun = || format!("{OK}content-length: 2\r\n\r\n{{");
    vec![
        http("an end before the head", RESET, says("")),
        http("an end in the head", RESET, says("HTTP/1.1 200 OK\r\ncont")),
        http("an end behind the head", TRUNCATED, says(format!("{OK}content-length: 2\r\n\r\n"))),
        http("an end in the body", TRUNCATED, says(begun())),
        http("an end in the size of a chunk", TRUNCATED, says(chunked("2"))),
        http("an end before the last chunk", TRUNCATED, says(chunked("2\r\n{}\r\n"))),
        http("an end before the end of the last chunk", Silence, says(chunked("2\r\n{}\r\n0\r\n"))),
        http("a reset at once", RESET, resets_at_once()),
        http("a reset before the head", RESET, resets("")),
        http("a reset in the head", RESET, resets("HTTP/1.1 200 OK\r\ncont")),
        http("a reset in the body", Failed(&["truncated", "reset"]), resets(begun())),
        http("an answer to an unread request", Reply("soup"), says_unasked(ok(r#"{"content":"soup"}"#))),
    ]
}

fn bodies() -> Vec<Case> {
    const BAD: Comes = Failed(&["bad_answer"]);
    let deep = |count: usize| format!(r#"{{"content":{}{}}}"#, "[".repeat(count), "]".repeat(count));
    let private: &'static str = private_json(12).leak();
    vec![
        http("brackets in brackets", BAD, says(ok(deep(100_000)))),
        http("brackets without an end", BAD, says(ok("[".repeat(200_000)))),
        http("objects in objects", BAD, says(ok(r#"{"a":"#.repeat(40_000)))),
        http(
            "JSON in JSON for its reader to unpack",
            Reply(private),
            says(ok(format!(r#"{{"content":{private}}}"#))),
        ),
        http("a number beyond all size", BAD, says(ok(r#"{"content":1e999999}"#))),
        http("an integer of 400 digits", BAD, says(ok(format!(r#"{{"content":{}}}"#, "9".repeat(400))))),
        http("a key twice", Reply("two"), says(ok(r#"{"content":"one","content":"two"}"#))),
        http("half a surrogate pair", Reply("\u{fffd}"), says(ok(r#"{"content":"\ud800"}"#))),
        http("NUL", Reply("a\0b"), says(ok(r#"{"content":"a\u0000b"}"#))),
        http("a byte order mark", Silence, says(ok("\u{feff}{}"))),
        http("UTF-16", BAD, says(ok(b"{\0}\0"))),
        http("invalid UTF-8", BAD, says(ok(b"{\"content\":\"\xc3\x28\"}"))),
        http("NUL instead of JSON", BAD, says(ok(of(0, 1000)))),
        http(
            "content longer than Zulip takes",
            Reply(LONG_REPLY),
            says(ok(format!(r#"{{"content":"{LONG_REPLY}"}}"#))),
        ),
        http("an endless body", Failed(&["too_large"]), floods("HTTP/1.0 200 OK\r\n\r\n", of(b' ', MUCH))),
    ]
}

/// An array as deep as may be around what serde_json by itself takes for JSON to be parsed anew, as often as
/// `times`.
fn private_json(times: usize) -> String {
    let wrap = |inner: String| {
        let raw = json!({ "$serde_json::private::RawValue": inner });
        format!("{}{raw}{}", "[".repeat(125), "]".repeat(125))
    };
    (0..times).fold("7".to_owned(), |inner, _| wrap(inner))
}

fn encodings() -> Vec<Case> {
    const BAD: Comes = Failed(&["bad_answer"]);
    const TOO_LARGE: Comes = Failed(&["too_large"]);
    const TRUNCATED: Comes = Failed(&["truncated"]);
    let encoded =
        |encoding: &str, body: &[u8]| says(with(&format!("content-encoding: {encoding}\r\n"), body));
    let bomb = gzip(&of(b' ', 8 << 20));
    vec![
        http("a bomb", TOO_LARGE, encoded("gzip", &bomb)),
        http("a bomb of several members", TOO_LARGE, encoded("gzip", &bomb.repeat(16))),
        http("10,000 empty members", Silence, encoded("gzip", &gzip(b"").repeat(10_000))),
        // What is inside was not asked for: it is data.
        http("a bomb in a bomb", BAD, encoded("gzip", &gzip(&bomb))),
        http("an encoding twice", BAD, encoded("gzip, gzip", &gzip(&gzip(b"{}")))),
        http("brotli", BAD, encoded("br", b"\x0b\x00\x80{}\x03")),
        http("an unknown encoding", Silence, encoded("soup", b"{}")),
        http("no encoding, by its name", Reply("soup"), encoded("identity", br#"{"content":"soup"}"#)),
        http("no gzip, though it says so", Silence, encoded("gzip", b"{}")),
        http("half of a gzip", TRUNCATED, encoded("gzip", &bomb[..20])),
        http("no zlib, though it says so", TRUNCATED, encoded("deflate", b"\xff\xff\xff\xff")),
    ]
}

pub(super) fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}
