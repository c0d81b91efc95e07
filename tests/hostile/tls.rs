//! The part of the table about TLS: what a hostile endpoint does instead of it, and what it does within it.

use super::Comes::{self, Failed, Reply, Silence};
use super::cases::{Case, HINTS, Layer, MUCH, OK, SECOND, chunked, gzip, of, ok, with};
use super::peer::{Behaviour, drips, floods, resets, resets_at_once, says, spells, stays};
use crate::support::Ending;

const TIMEOUT: Comes = Failed(&["timeout"]);
const RESET: Comes = Failed(&["reset"]);

/// All of it.
pub(super) fn all() -> Vec<Case> {
    handshakes().into_iter().chain(slow()).chain(answers()).chain(ends()).collect()
}

fn instead(name: &'static str, comes: Comes, behaviour: Behaviour) -> Case {
    (name, comes, Layer::InsteadOfTls, behaviour)
}

fn within(name: &'static str, comes: Comes, behaviour: Behaviour) -> Case {
    ending(name, comes, Ending::Orderly, behaviour)
}

fn ending(name: &'static str, comes: Comes, ending: Ending, behaviour: Behaviour) -> Case {
    (name, comes, Layer::Tls(ending), behaviour)
}

fn handshakes() -> Vec<Case> {
    const TLS: Comes = Failed(&["tls"]);
    let record = b"\x16\x03\x03\xff\xff";
    // The beginning of a server's hello of 118 bytes.
    let hello = b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76";
    vec![
        instead("TLS that never answers", TIMEOUT, stays("")),
        instead("a hello a byte a second", TIMEOUT, drips(*hello, b"\x03", SECOND)),
        instead("no TLS", TLS, says(ok("{}"))),
        instead("garbage instead of TLS", TLS, floods("", of(0, MUCH))),
        instead("a TLS record that is too long", TLS, floods(*record, of(b'x', MUCH))),
        instead("an end in TLS's handshake", Failed(&["reset", "tls"]), says("\x16\x03\x03")),
        // It may come before the client knows that it is connected.
        instead("a reset before TLS's handshake", Failed(&["reset", "tls"]), resets_at_once()),
        instead("a reset behind the client's hello", TLS, resets("")),
        instead("a reset in the server's hello", TLS, resets(*hello)),
    ]
}

fn slow() -> Vec<Case> {
    vec![
        within("TLS and no answer", TIMEOUT, stays("")),
        within("TLS and a head a byte a second", TIMEOUT, drips("HTTP/1.1 200 OK\r\nx: ", b"x", SECOND)),
        within("TLS and a body a byte a second", TIMEOUT, drips(chunked(""), b"1\r\n \r\n", SECOND)),
        within(
            "TLS and an answer in drops",
            Reply("soup"),
            spells([HINTS.as_bytes(), &ok(r#"{"content":"soup"}"#)].concat()),
        ),
    ]
}

fn answers() -> Vec<Case> {
    const TOO_LARGE: Comes = Failed(&["too_large"]);
    const STATUS: Comes = Failed(&["status"]);
    let bomb = with("content-encoding: gzip\r\n", gzip(&of(b' ', 8 << 20)));
    let spaces = || of(b' ', MUCH);
    vec![
        within("TLS and endless headers", TOO_LARGE, floods(OK, format!("x: {}\r\n", "x".repeat(1000)))),
        within("TLS and an endless header", TOO_LARGE, floods(format!("{OK}x: "), of(b'x', MUCH))),
        within("TLS and endless 103 Early Hints", STATUS, floods("", HINTS.repeat(100))),
        within("TLS and an endless chunk", TOO_LARGE, floods(chunked("ffffffff\r\n"), spaces())),
        within("TLS and an endless extension", TOO_LARGE, floods(chunked("2;"), of(b'x', MUCH))),
        within("TLS and an endless body", TOO_LARGE, floods(format!("{OK}\r\n"), spaces())),
        within("TLS and a bomb", TOO_LARGE, says(bomb)),
        within("TLS and garbage", Failed(&["not_http"]), floods("", b"\x00\xff\x13garbage")),
        within("TLS and bytes behind the body", Silence, says([ok("{}"), of(b'x', MUCH)].concat())),
    ]
}

fn ends() -> Vec<Case> {
    const TRUNCATED: Comes = Failed(&["truncated"]);
    let in_the_body = || says(format!("{OK}content-length: 2\r\n\r\n{{"));
    vec![
        ending("a reset behind TLS's handshake", RESET, Ending::Reset, resets_at_once()),
        ending("TLS and a reset before the head", RESET, Ending::Reset, says("")),
        ending("TLS and a reset in the head", RESET, Ending::Reset, says("HTTP/1.1 200 OK\r\ncont")),
        ending("TLS and a reset in the body", TRUNCATED, Ending::Reset, in_the_body()),
        ending("TLS and a bare end before the head", RESET, Ending::Bare, says("")),
        ending("TLS and a bare end in the body", TRUNCATED, Ending::Bare, in_the_body()),
        within("TLS and its end before the head", RESET, says("")),
        within("TLS and its end in the body", TRUNCATED, in_the_body()),
    ]
}
