//! Bad input of any kind gets its error or close code, and nobody else notices.

use bytes::BytesMut;
use serde_json::{Value, json};
use tickmesh_protocol::frame::{Opcode, put_masked};
use tickmesh_tests::{RawClient, Sandbox};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_masked(&mut out, Opcode::Text, payload, [9, 8, 7, 6]);
    out[0] = first;
    out.to_vec()
}

#[tokio::test]
async fn broken_frames_close_with_their_code() {
    let sandbox = Sandbox::open();
    let mut other = sandbox.client().await;
    let mut unmasked = frame(0x81, b"{}");
    unmasked[1] &= 0x7F;
    let huge_text = frame(0x81, &vec![b'x'; 10_000_000]);
    let mut huge_header = vec![0x81, 0xFF];
    huge_header.extend((1u64 << 40).to_be_bytes());
    huge_header.extend([1, 2, 3, 4]);
    let cases: [(&str, Vec<u8>, u16); 14] = [
        ("text that is not UTF-8", frame(0x81, b"\xff\xfe"), 1007),
        ("a frame without a mask", unmasked, 1002),
        ("a reserved bit", frame(0xC1, b"{}"), 1002),
        ("an unknown opcode", frame(0x83, b"{}"), 1002),
        ("an unknown control opcode", frame(0x8B, b"{}"), 1002),
        ("binary where JSON was agreed on", frame(0x82, b"{}"), 1003),
        ("a long ping", frame(0x89, &[0; 126]), 1002),
        ("a fragmented ping", frame(0x09, b"x"), 1002),
        ("a continuation of nothing", frame(0x80, b"x"), 1002),
        ("a beginning inside a message", [frame(0x01, b"{"), frame(0x81, b"}")].concat(), 1002),
        ("a close code that must not be sent", frame(0x88, &1005u16.to_be_bytes()), 1002),
        ("a close frame of one byte", frame(0x88, b"x"), 1002),
        ("ten megabytes", huge_text, 1009),
        ("a terabyte by its header", huge_header, 1009),
    ];
    for (what, bytes, code) in cases {
        let mut client = RawClient::connect(sandbox.address(0), None).await;
        client.send(&bytes).await;
        assert_eq!(client.closed().await, Some(code), "{what}");
        assert_eq!(other.request("time", json!({})).await["success"], true, "after {what}");
    }
    let mut client = RawClient::connect(sandbox.address(0), None).await;
    client.send(&frame(0x88, &1000u16.to_be_bytes())).await;
    assert_eq!(client.closed().await, Some(1000), "a proper close is answered");
}

#[tokio::test]
async fn broken_messages_are_answered_and_the_connection_lives_on() {
    let sandbox = Sandbox::open();
    let mut client = sandbox.client().await;
    let deep = format!(
        r#"{{"type":"request","request_id":"a","action":"echo","payload":{}1{}}}"#,
        "[".repeat(20_000),
        "]".repeat(20_000)
    );
    let cases = [
        ("nonsense", "INVALID_MESSAGE_FORMAT"),
        ("", "INVALID_MESSAGE_FORMAT"),
        ("[]", "INVALID_MESSAGE_FORMAT"),
        ("{}", "INVALID_MESSAGE_FORMAT"),
        (r#"{"type":"request","action":"echo"}"#, "INVALID_MESSAGE_FORMAT"),
        (r#"{"type":"request","request_id":7,"action":"echo"}"#, "INVALID_MESSAGE_FORMAT"),
        (deep.as_str(), "INVALID_MESSAGE_FORMAT"),
        (r#"{"type":"request","request_id":"a","action":"fly"}"#, "INVALID_ACTION"),
        (r#"{"type":"subscribe","request_id":"a","room":""}"#, "INVALID_PARAMETERS"),
        (r#"{"type":"subscribe","request_id":"a","room":"a b"}"#, "INVALID_PARAMETERS"),
        (r#"{"type":"subscribe","request_id":"a","room":"r","history":-1}"#, "INVALID_PARAMETERS"),
        (
            r#"{"type":"subscribe","request_id":"a","room":"r","delivery":"latest","max_rate":-1}"#,
            "INVALID_PARAMETERS",
        ),
        (
            r#"{"type":"subscribe","request_id":"a","room":"r","delivery":"latest","max_rate":1e400}"#,
            "INVALID_PARAMETERS",
        ),
        (
            r#"{"type":"subscribe","request_id":"a","room":"r","recover":{"epoch":1,"seq":1}}"#,
            "INVALID_PARAMETERS",
        ),
        (r#"{"type":"unsubscribe","request_id":"a","room":"r"}"#, "ROOM_NOT_FOUND"),
        (
            r#"{"type":"request","request_id":"a","action":"publish","payload":{"room":"r"}}"#,
            "INVALID_PARAMETERS",
        ),
        (
            r#"{"type":"request","request_id":"a","action":"publish","payload":{"room":"system_x","event":"e","data":1}}"#,
            "PERMISSION_DENIED",
        ),
        (
            r#"{"type":"request","request_id":"a","action":"history","payload":{"room":"user_bob"}}"#,
            "PERMISSION_DENIED",
        ),
        (r#"{"type":"request","request_id":"a","action":"auth","payload":{"token":"x"}}"#, "AUTH_FAILED"),
    ];
    for (text, code) in cases {
        client.send_text(text).await;
        let answer = client.next().await;
        assert_eq!((&answer["type"], &answer["error_code"]), (&json!("error"), &json!(code)), "{text:.80}");
    }
    let unknown = r#"{"type":"request","request_id":"z","action":"time","user_id":"root","more":[1]}"#;
    client.send_text(unknown).await;
    assert_eq!(client.next().await["success"], true, "unknown fields are ignored");
    let mut packed = tickmesh_tests::Client::msgpack(sandbox.address(0)).await;
    packed.send(&Value::from(5)).await;
    assert_eq!(packed.next().await["error_code"], "INVALID_MESSAGE_FORMAT");
}

#[tokio::test]
async fn fragments_and_pings_between_them_are_understood() {
    let sandbox = Sandbox::open();
    let mut client = RawClient::connect(sandbox.address(0), None).await;
    assert!(client.frame().await.is_some(), "the greeting");
    let text = br#"{"type":"request","request_id":"f","action":"echo","payload":"joined"}"#;
    client.send(&frame(0x01, &text[..10])).await;
    client.send(&frame(0x89, b"between")).await;
    client.send(&frame(0x00, &text[10..30])).await;
    client.send(&frame(0x80, &text[30..])).await;
    assert_eq!(client.frame().await, Some((Opcode::Pong, b"between".to_vec())));
    let (_, answer) = client.frame().await.expect("an answer");
    let answer: Value = serde_json::from_slice(&answer).expect("JSON");
    assert_eq!(answer["data"], "joined");
}

#[tokio::test]
async fn handshakes_that_are_none_are_refused() {
    let sandbox = Sandbox::with(1, |config| config.server.origins = vec!["https://good.example".into()]);
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let version = "Sec-WebSocket-Version: 13\r\n";
    for (what, path, headers, status) in [
        ("no upgrade", "/ws", String::new(), 426),
        ("no key", "/ws", format!("{upgrade}{version}"), 400),
        ("an old version", "/ws", format!("{upgrade}{key}Sec-WebSocket-Version: 8\r\n"), 426),
        ("another path", "/other", format!("{upgrade}{key}{version}"), 404),
        ("a foreign origin", "/ws", format!("{upgrade}{key}{version}Origin: https://evil.example\r\n"), 403),
        (
            "a token of 100 KB",
            &format!("/ws?token={}", "x".repeat(100_000)),
            format!("{upgrade}{key}{version}"),
            400,
        ),
        (
            "a token of 10 MB",
            &format!("/ws?token={}", "x".repeat(10_000_000)),
            format!("{upgrade}{key}{version}"),
            431,
        ),
    ] {
        let answer = sandbox.request("GET", path, &headers, "").await;
        // The reset that follows bytes nobody reads may overtake the status.
        assert!(
            answer.status == status || (answer.status == 0 && path.len() > 1_000_000),
            "{what}: {answer:?}"
        );
    }
    let good = [("Origin", "https://good.example")];
    assert!(tickmesh_tests::Client::try_connect(sandbox.address(0), "", &good).await.is_ok());

    let sandbox = Sandbox::with(1, |config| config.server.handshake_timeout_ms = 500);
    let mut half = RawClient::tcp(sandbox.address(0), None).await;
    half.write_all(b"GET /ws HTTP/1.1\r\nHost: x\r\nConn").await.expect("it listens");
    let mut answer = Vec::new();
    let read = tokio::time::timeout(tickmesh_tests::DEADLINE, half.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "half a handshake is given up on");
}

#[tokio::test]
async fn http_that_is_wrong_gets_json_and_a_status() {
    let sandbox = Sandbox::with(1, |config| config.limits.max_http_body_bytes = 10_000);
    for (method, path, body, status) in [
        ("POST", "/api/v1/publish", "{", 400),
        ("POST", "/api/v1/publish", "[]", 400),
        ("POST", "/api/v1/publish", r#"{"messages":5}"#, 400),
        ("POST", "/api/v1/publish", r#"{"room":"r"}"#, 400),
        ("POST", "/api/v1/publish", r#"{"room":"system_a","event":"e","data":1}"#, 403),
        ("GET", "/api/v1/rooms/a%20b", "", 400),
        ("GET", "/api/v1/rooms/nobody", "", 404),
        ("GET", "/api/v1/rooms/r/history?limit=0", "", 400),
        ("GET", "/api/v1/rooms/r/history?limit=x", "", 400),
        ("GET", "/api/v1/rooms/user_bob/history", "", 403),
        ("GET", "/api/v1/sessions?limit=-1", "", 400),
        ("GET", "/api/v1/sessions/none", "", 404),
        ("DELETE", "/api/v1/sessions/none", "", 403),
        ("GET", "/nothing", "", 404),
        ("PATCH", "/api/v1/publish", "", 404),
    ] {
        let answer = sandbox.request(method, path, "", body).await;
        assert_eq!(answer.status, status, "{method} {path} {body}: {answer:?}");
        assert!(answer.body.contains("error_code"), "{method} {path}: {answer:?}");
    }
    let large = format!(r#"{{"room":"r","event":"e","data":"{}"}}"#, "x".repeat(20_000));
    assert_eq!(sandbox.request("POST", "/api/v1/publish", "", &large).await.status, 413);
}
