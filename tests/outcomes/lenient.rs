//! Responses as the world sends them: what other clients read is read, and what is wrong is named.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

use super::*;

const SOUP: &[u8] = br#"{"content":"soup"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_other_clients_read_is_read() {
    let mut table = Table::default();
    add_statuses(&mut table).await;
    add_fractions_of_seconds(&mut table).await;
    add_header_sections(&mut table).await;
    add_chunks(&mut table).await;
    add_texts(&mut table).await;
    add_codings(&mut table).await;
    table.check(&config()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named() {
    let mut table = Table::default();
    add_redirects(&mut table).await;
    add_what_is_not_http(&mut table).await;
    table.check(&config()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_this_machine_spends_no_attempt() {
    let mut table = Table::default();
    // Linux connects to no group of hosts and no broadcast, whatever its routes.
    for host in ["224.0.0.1", "239.255.255.250"] {
        let url = format!("http://{host}/");
        table.url(&url, &url, Outcome::failed("local").after(0)).because("unreachable");
    }
    let allowed = r#"["127.0.0.0/8", "224.0.0.0/4"]"#;
    let config = config().set("egress.allow", allowed).text("retry.give_up_after", "2s");
    // A failure that is held against the endpoint would close its gate for good.
    let config =
        config.set("breaker.failures", "1").text("breaker.open", "1d").text("breaker.max_open", "1d");

    table.check(&config).await;

    let services = config.cli(&["services", "list", "--json"]).await.success().records();
    assert!(services.iter().all(|service| service["state"] == "open"), "{services:?}");
}

fn soup() -> Outcome {
    Outcome::succeeded(Says::reply("soup"))
}

fn silence() -> Outcome {
    Outcome::succeeded(Says::Nothing)
}

fn raw(bytes: impl AsRef<[u8]>) -> Answer {
    Answer::Raw(bytes.as_ref().to_vec())
}

async fn add_statuses(table: &mut Table) {
    for status in [509, 512, 520, 529, 530, 599, 600, 999] {
        let answer = move |number: usize| if number == 0 { text(status, "later") } else { reply("soup") };
        table.answer(&format!("{status}, then a reply"), soup().after(2), answer).await;
    }
    for status in [420, 499, 506, 507, 508, 510, 511] {
        table.answer(&format!("{status}"), Outcome::failed("status"), move |_| text(status, "no")).await;
    }
}

async fn add_fractions_of_seconds(table: &mut Table) {
    // Without the header the second attempt comes after 75 ms at most; the product counts milliseconds.
    let nearly_a_second = Duration::from_millis(950);
    for (status, value) in [(429, "0.66437864303589"), (503, "1.0"), (500, ".5")] {
        let answer =
            move |number: usize| if number == 0 { retry_after(status, value) } else { reply("soup") };
        let name = format!("Retry-After: {value}");
        table.answer(&name, soup().after(2), answer).await.not_before(nearly_a_second);
    }
    let beyond = |_| retry_after(429, "3600.25");
    table.answer("Retry-After: 3600.25", Outcome::failed("status"), beyond).await;
}

async fn add_header_sections(table: &mut Table) {
    for lines in [
        "x: a\r\n b\r\n\tc\r\ncontent-length: 18\r\n",
        "content-length:\r\n 18\r\n",
        " x: a\r\ncontent-length: 18\r\n",
        "noise\r\ncontent-length: 18\r\n",
        ": x\r\ncontent-length: 18\r\n",
        "x y: z\r\ncontent-length: 18\r\n",
        "content-length : 18\r\n",
        "x: a\0b\u{1}\u{7f}\r\ncontent-length: 18\r\n",
        "content-length: 18\r\nContent-Length: 18\r\n",
        "content-length: 18, 18\r\n",
        "content-length: 018,18,\r\n",
        "content-length: 18\r\nhost: x\r\nhost: y\r\n",
    ] {
        let answer = move |_| raw([b"HTTP/1.1 200 OK\r\n", lines.as_bytes(), b"\r\n", SOUP].concat());
        table.answer(&format!("{lines:?}"), soup(), answer).await;
    }
    for start in [
        "HTTP/1.1 200 OK\ncontent-length: 18\n\n",
        "HTTP/1.1\t200\tOK\r\ncontent-length:18\r\n\r\n",
        "HTTP/1.1 200\r\ncontent-length: 18\r\n\r\n",
        "HTTP/1.2 200 OK\r\ncontent-length: 18\r\n\r\n",
        "\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 18\r\n\r\n",
    ] {
        let answer = move |_| raw([start.as_bytes(), SOUP].concat());
        table.answer(&format!("{start:?}"), soup(), answer).await;
    }
    for nothing in [
        "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.0 204 No Content\r\n\r\n",
        "HTTP/1.0 200 OK\r\nServer: BaseHTTP/0.6 Python/3.12.3\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
    ] {
        table.answer(&format!("{nothing:?}"), silence(), move |_| raw(nothing)).await;
    }
}

async fn add_chunks(table: &mut Table) {
    for (coding, chunks) in [
        ("CHUNKED", "12\r\nBODY\r\n0\r\n\r\n"),
        ("identity, chunked", "12\r\nBODY\r\n0\r\n\r\n"),
        ("chunked\r\ntransfer-encoding: chunked", "12\r\nBODY\r\n0\r\n\r\n"),
        ("chunked", "12;a=\"b\"\r\nBODY\r\n0;c\r\nx: y\r\n\r\n"),
        ("chunked", "12  \r\nBODY\r\n000\r\n\r\n"),
        ("chunked", "12\nBODY\n0\n\n"),
        ("chunked", "12\r\nBODY\r\n0\r\n"),
        ("chunked", "12\r\nBODY\r\n0\r\nx: y"),
        ("chunked\r\ncontent-length: 5, 6", "12\r\nBODY\r\n0\r\n\r\n"),
    ] {
        let body = chunks.replace("BODY", &String::from_utf8_lossy(SOUP));
        for version in ["HTTP/1.0", "HTTP/1.1"] {
            let response = format!("{version} 200 OK\r\ntransfer-encoding: {coding}\r\n\r\n{body}");
            table.answer(&format!("{response:?}"), soup(), move |_| raw(&response)).await;
        }
    }
    let held = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n12\r\n{\"content\":\"soup\"}\r\n0\r\n";
    let answer = move |_| Answer::Bytes(held.into());
    table.answer("chunks whose trailers never come", soup(), answer).await;
}

async fn add_texts(table: &mut Table) {
    for nothing in ["\u{feff}", "\u{feff}\r\n", "\u{feff}\"\"", "\u{feff}{}"] {
        table.answer(&format!("{nothing:?}"), silence(), move |_| text(200, nothing)).await;
    }
    table.answer("a byte order mark", soup(), |_| text(200, "\u{feff}{\"content\":\"soup\"}")).await;
    for (body, said) in [
        (r#"{"content":"a \ud83d"}"#, "a \u{fffd}"),
        (r#"{"content":"\udc00\ud83d b"}"#, "\u{fffd}\u{fffd} b"),
        (r#"{"content":"\ud83d\ude00"}"#, "\u{1f600}"),
        (r#"{"content":"\\ud83d"}"#, r"\ud83d"),
        (r#"{"\ud83d":["\udfff"],"content":"soup"}"#, "soup"),
        (r#"{"content":{"\uD83D":"\uDFFF"}}"#, "{\"\u{fffd}\":\"\u{fffd}\"}"),
    ] {
        let expected = Outcome::succeeded(Says::reply(said));
        table.answer(body, expected, move |_| text(200, body)).await;
    }
    let odd = |_| Answer::Http {
        status: 200,
        headers: vec![("content-type".into(), "application/json;charset=utf-16".into())],
        body: SOUP.into(),
    };
    table.answer("a charset that JSON does not have", soup(), odd).await;
}

async fn add_codings(table: &mut Table) {
    let coded = |coding: &str, body: Vec<u8>| {
        let headers = vec![("content-encoding".to_owned(), coding.to_owned())];
        move |_: usize| Answer::Http { status: 200, headers: headers.clone(), body: body.clone() }
    };
    for coding in ["br", "utf-8", "soup", "", "gzip, br", "gzip"] {
        let name = format!("JSON that says it is {coding:?}");
        table.answer(&name, soup(), coded(coding, SOUP.into())).await;
    }
    let brotli = b"\x8b\x08\x80soup\x03".to_vec();
    table.answer("brotli", Outcome::failed("bad_answer"), coded("br", brotli)).await;
    for (name, behind) in
        [("padding", &[0; 9][..]), ("a line", b"\r\n"), ("half a member", &gzip(SOUP)[..12])]
    {
        let body = [&gzip(SOUP), behind].concat();
        table.answer(&format!("gzip and {name} behind it"), soup(), coded("x-gzip", body)).await;
    }
    let pieces = SOUP.iter().flat_map(|byte| gzip(&[*byte])).collect();
    table.answer("gzip in many members", soup(), coded("gzip", pieces)).await;
    table.answer("zlib", soup(), coded("deflate", zlib(SOUP))).await;
    table.answer("deflate without zlib", soup(), coded("Deflate", deflate(SOUP))).await;
}

async fn add_redirects(table: &mut Table) {
    for (location, detail) in [
        ("https://u:p@new.example:8443/hook?token=t#x", "to https://new.example:8443/hook"),
        ("//new.example", "to http://new.example/"),
        ("http://[::1", "to something that is not a URL"),
    ] {
        let answer = move |_| with_header(302, "location", location);
        table.answer(location, Outcome::failed("status"), answer).await.because(detail);
    }
    let nowhere = table.answer("301 to nowhere", Outcome::failed("status"), |_| Answer::status(301)).await;
    nowhere.because("answered with status 301");
}

async fn add_what_is_not_http(table: &mut Table) {
    for (response, detail) in [
        ("SSH-2.0-OpenSSH_9.9\r\n", "SSH-2.0-OpenSSH_9.9"),
        ("HTTP/2.0 200 OK\r\n\r\n", "HTTP/2.0 200 OK"),
        ("HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 2000 OK"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
            "header content-length is \"2, 3\"",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2,3\r\n\r\n{}", "header content-length is \"2,3\""),
        ("HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\n{}", "header content-length is \"two\""),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n{}", "header transfer-encoding is \"gzip\""),
    ] {
        let expected = Outcome::failed("not_http").after(ATTEMPTS_MAX);
        table.answer(&format!("{response:?}"), expected, move |_| raw(response)).await.because(detail);
    }
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn zlib(body: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(vec![], Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn deflate(body: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(vec![], Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}
