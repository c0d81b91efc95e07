use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;
use crate::http::socket::is_unsent;

const INTERIM: &str = "HTTP/1.1 103 Early Hints\r\ncontent-length: 7\r\n\r\n";
const RESPONSE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nsoup";

/// What awc reads of a response that arrives in pieces of a size, behind which the connection ends.
async fn read_pieces(response: &str, piece: usize) -> io::Result<String> {
    let (stream, mut peer) = duplex(piece);
    let (mut responses, mut read) = (Responses::new(stream), Vec::new());
    let write = async move {
        // Nobody reads on behind an error.
        let _ = peer.write_all(response.as_bytes()).await;
    };
    let reading = async move {
        let result = loop {
            match responses.read_buf(&mut read).await {
                Ok(_) => {}
                Err(error) if matches!(responses.response.state, State::Broken(_)) && is_whole(&read) => {
                    break Ok((read, error));
                }
                Err(error) => break Err(error),
            }
        };
        drop(responses);
        result
    };
    let ((), result) = tokio::join!(write, reading);
    result.map(|(read, _)| String::from_utf8_lossy(&read).into_owned())
}

/// Whether awc would see the end of this response.
fn is_whole(read: &[u8]) -> bool {
    let text = String::from_utf8_lossy(read);
    let Some((header, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = header.lines().find_map(|line| line.strip_prefix("content-length: "));
    match length {
        Some(length) => Ok(body.len()) == length.parse(),
        None => body.ends_with("0\r\n\r\n"),
    }
}

/// The status and the body that awc gets, and whether it may keep the connection.
async fn read(response: &str) -> io::Result<(u16, String, bool)> {
    let whole = read_pieces(response, 0x4000).await?;
    let drops = read_pieces(response, 1).await?;
    assert_eq!(parts(&drops), parts(&whole), "{response:?}");
    Ok(parts(&whole))
}

fn parts(read: &str) -> (u16, String, bool) {
    let (header, body) = read.split_once("\r\n\r\n").expect("a header section");
    let status = header["HTTP/1.1 ".len()..][..3].parse().expect("a status");
    let body = if header.contains("content-length") { body.to_owned() } else { joined(body) };
    (status, body, !header.contains("connection: close"))
}

fn joined(chunks: &str) -> String {
    let mut body = Vec::new();
    Chunks::new().take(chunks.as_bytes(), &mut body).expect("chunks");
    String::from_utf8_lossy(&body).into_owned()
}

#[tokio::test]
async fn responses_are_read_as_other_clients_read_them() {
    for (response, status, body, is_kept) in [
        (RESPONSE, 200, "soup", true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsoup\r\n0\r\n\r\n", 200, "soup", true),
        ("HTTP/1.1 500\r\ncontent-length: 0\r\n\r\n", 500, "", true),
        ("HTTP/1.1 204 x\r\n\r\n", 204, "", true),
        // What is decoration.
        ("HTTP/1.1 200 OK\nnoise\ncontent-length : 4\n\nsoup", 200, "soup", false),
        ("HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length:\r\n 4\r\n\r\nsoup", 200, "soup", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 4, 4\r\ncontent-length: 4\r\n\r\nsoup", 200, "soup", false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsoup\r\n0\r\n", 200, "soup", true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsoup\r\n0\r\nx: y", 200, "soup", true),
        // What ends with its connection.
        ("HTTP/1.1 200 OK\r\n\r\nsoup", 200, "soup", false),
        ("HTTP/1.0 200 OK\r\n\r\nsoup", 200, "soup", false),
        ("HTTP/1.1 500\n\n", 500, "", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Identity\r\n\r\nsoup", 200, "soup", false),
        // What has no body, or ends before its connection.
        ("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", 200, "", false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\nsoup", 200, "soup", false),
        ("HTTP/1.1 304 x\r\ncontent-length: 7\r\n\r\n", 304, "", false),
        ("HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nabc", 101, "", false),
        // What comes behind it is dropped.
        ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nsoup and more", 200, "soup", true),
    ] {
        let read = read(response).await.unwrap_or_else(|error| panic!("{response:?}: {error}"));
        assert_eq!(read, (status, body.to_owned(), is_kept), "{response:?}");
    }
}

#[tokio::test]
async fn interim_responses_are_passed_over() {
    let soup = || (200, "soup".to_owned(), true);
    for interim in ["HTTP/1.1 100 Continue\r\n\r\n", INTERIM, "\r\nHTTP/1.0 199\n\n\r\n"] {
        assert_eq!(read(&format!("{interim}{RESPONSE}")).await.expect("a response"), soup(), "{interim:?}");
    }
    let many = INTERIM.repeat(INTERIM_RESPONSES_MAX);
    assert_eq!(read(&format!("{many}{RESPONSE}")).await.expect("a response"), soup());
    let (status, _, is_kept) = read(&format!("{many}{INTERIM}{RESPONSE}")).await.expect("a response");
    assert_eq!((status, is_kept), (103, false));
    assert!(read(INTERIM).await.is_err_and(|error| is_end(&error)));
}

#[tokio::test]
async fn what_is_not_http_is_named() {
    for (response, said) in [
        ("SSH-2.0-OpenSSH_9.9\r\n", "with \"SSH"),
        (r#"{"content":"soup"}"#, "with \"{"),
        ("HTTP/2.0 200 OK\r\n\r\n", "with \"HTTP/2"),
        ("HTTP/1.1 2000 OK\r\n\r\n", "with \"HTTP/1.1 2000 OK\""),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2, 3\r\n\r\n", "content-length is \"2, 3\""),
    ] {
        for piece in [1, 100] {
            let error = read_pieces(response, piece).await.expect_err("not HTTP");
            let fault = header_fault(&error).unwrap_or_else(|| panic!("{response:?}: {error}"));
            let said = if piece == 1 { said.split('"').next().unwrap_or_default() } else { said };
            assert!(fault.to_string().contains(said), "{response:?}: {fault}");
        }
    }
}

#[tokio::test]
async fn a_status_counts_before_a_fault_of_the_body() {
    let (mut stream, mut peer) = duplex(1000);
    peer.write_all(b"HTTP/1.1 503 x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n").await.expect("room");
    let mut responses = Responses::new(&mut stream);
    let mut header = [0; 100];
    let read = responses.read(&mut header).await.expect("a header section");
    assert!(header[..read].starts_with(b"HTTP/1.1 503"));
    let error = responses.read(&mut header).await.expect_err("no chunk");
    assert!(error.to_string().contains("size of a chunk"), "{error}");
}

#[tokio::test]
async fn a_header_section_has_a_limit() {
    let endless = ["HTTP/1.1 200 OK\r\nx: ", &"x".repeat(2 * header_section::BYTES_MAX)].concat();
    let error = read_pieces(&endless, 0x4000).await.expect_err("too large");
    assert_eq!(header_fault(&error), Some(&HeaderFault::TooManyBytes));
}

#[tokio::test]
async fn a_part_of_a_response_is_an_error() {
    for response in [
        "",
        "HTTP/1.1 200 OK\r\ncontent-length: 4",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nsou",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsoup\r\n0",
    ] {
        for piece in [1, 100] {
            let error = read_pieces(response, piece).await.expect_err("a part");
            assert!(is_end(&error), "{response:?}: {error}");
        }
    }
}

#[tokio::test]
async fn behind_an_unclean_end_no_request_is_written() {
    const HEADER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n";
    const NOTHING: &str = "HTTP/1.1 204 No Content\r\n\r\n";
    const CHUNKS: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsoup\r\n";
    const JUNK: &str = "H";
    for (pieces, is_unclean) in [
        (vec![HEADER, "soup"], false),
        (vec![HEADER, "so", "up"], false),
        (vec![NOTHING], false),
        (vec![CHUNKS, "0\r\n\r\n"], false),
        (vec![RESPONSE, JUNK], true),
        (vec![HEADER, "soupH"], true),
        (vec![HEADER, "so"], true),
        (vec![NOTHING, JUNK], true),
        (vec![CHUNKS, "0\r\n"], true),
        (vec![CHUNKS, "0\r\n\r\nH"], true),
    ] {
        let at_once = pieces.concat();
        for pieces in [pieces, vec![at_once.as_str()]] {
            let (stream, mut peer) = duplex(1000);
            let mut responses = Responses::new(stream);
            responses.write_all(b"a request").await.expect("room");
            for piece in &pieces {
                peer.write_all(piece.as_bytes()).await.expect("room");
                // Behind a whole response nothing is read; junk is an error.
                let _ = responses.read(&mut [0; 1000]).await;
            }
            let written = responses.write_all(b"another request").await;
            assert_eq!(written.is_err_and(|error| is_unsent(&error)), is_unclean, "{pieces:?}");
        }
    }
}

#[tokio::test]
async fn late_trailers_leave_a_connection_idle() {
    let (stream, mut peer) = duplex(1000);
    let mut responses = Responses::new(stream);
    responses.write_all(b"a request").await.expect("room");
    peer.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n").await.expect("room");
    let read = responses.read(&mut [0; 1000]).await.expect("a response");
    assert!(read > 0);
    peer.write_all(b"x: y\r\n\r\n").await.expect("room");
    let mut look = [0; 2];
    assert!(responses.read(&mut look).now_or_never().is_none(), "nothing is left to read");
    responses.write_all(b"another request").await.expect("a clean end");
}

#[tokio::test]
async fn each_request_has_a_response_of_its_own() {
    let (stream, mut peer) = duplex(1000);
    let mut responses = Responses::new(stream);
    for _ in 0..2 {
        responses.write_all(b"a request").await.expect("room");
        peer.write_all([INTERIM, RESPONSE].concat().as_bytes()).await.expect("room");
        let mut response = vec![0; "HTTP/1.1 200 x\r\ncontent-length: 4\r\n\r\nsoup".len()];
        responses.read_exact(&mut response).await.expect("a response");
        assert!(response.ends_with(b"soup"));
    }
}
