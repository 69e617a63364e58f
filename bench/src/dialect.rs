//! The same measurements over Socket.IO: what a connection says and hears, between the native protocol's messages and
//! Socket.IO's packets.
//!
//! Invariants:
//! - The rest of the load generator knows the native messages alone.
//! - Every event asks for an acknowledgement, as the callers that a Socket.IO server is compared with do; the server
//!   answers with an event as well, and of the two the acknowledgement counts.
//!
//! It must not know what a measurement looks for in a message.

use std::borrow::Cow;
use std::io::Write as _;

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Proto {
    /// The native WebSocket protocol
    #[default]
    Native,
    /// Socket.IO over a WebSocket
    Socketio,
}

impl Proto {
    /// Where servers expect it.
    pub(crate) fn default_path(self) -> &'static str {
        match self {
            Self::Native => "/ws",
            Self::Socketio => "/socket.io/?EIO=4&transport=websocket",
        }
    }
}

/// What a packet of the server means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard<'a> {
    /// The same message as the native protocol has it.
    Message(Cow<'a, [u8]>),
    /// A packet to be answered with this one.
    Answer(&'static [u8]),
    /// The namespace is entered.
    Entered,
    /// The namespace may not be entered.
    Refused,
    /// Nothing that matters here.
    Nothing,
}

/// Writes a native message of a client as the packet of an event, with an acknowledgement under this id.
pub(crate) fn say(native: &[u8], ack: u64, out: &mut Vec<u8>) {
    out.clear();
    let subscribes = memchr::memmem::find(native, br#""type":"subscribe""#).is_some();
    let event = if subscribes { "subscribe" } else { "request" };
    // Writing to a vector cannot fail.
    let _ = write!(out, r#"42{ack}["{event}","#);
    out.extend_from_slice(native);
    out.push(b']');
}

/// Takes a packet of the server apart.
pub(crate) fn hear(packet: &[u8]) -> Heard<'_> {
    match packet {
        b"2" => Heard::Answer(b"3"),
        [b'0', ..] => Heard::Answer(b"40"),
        [b'4', b'0', ..] => Heard::Entered,
        [b'4', b'4', ..] => Heard::Refused,
        [b'4', b'2', b'[', b'"', rest @ .., b']'] => event(rest),
        [b'4', b'3', rest @ .., b']'] => acknowledgement(rest),
        _ => Heard::Nothing,
    }
}

/// `name",argument` of an event.
fn event(rest: &[u8]) -> Heard<'_> {
    let Some(end) = memchr::memchr(b'"', rest) else { return Heard::Nothing };
    let (name, argument) = (&rest[..end], rest[end + 1..].strip_prefix(b",").unwrap_or_default());
    match name {
        b"_offset" | b"connect_response" | b"response" | b"subscribed" => Heard::Nothing,
        b"resync" => with_head(br#"{"event":"resync","#, argument),
        b"error" => with_head(br#"{"type":"error","#, argument),
        _ => Heard::Message(Cow::Borrowed(argument)),
    }
}

/// `id[argument` of an acknowledgement.
fn acknowledgement(rest: &[u8]) -> Heard<'_> {
    let Some(begin) = memchr::memchr(b'[', rest) else { return Heard::Nothing };
    let argument = &rest[begin + 1..];
    if argument.starts_with(br#"{"type":"#) {
        return Heard::Message(Cow::Borrowed(argument));
    }
    if argument.starts_with(br#"{"status":"subscribed""#) {
        let mut native = br#"{"type":"response","request_id":"s","data":"#.to_vec();
        native.extend_from_slice(argument);
        native.push(b'}');
        return Heard::Message(Cow::Owned(native));
    }
    // An error, which came as an event too.
    Heard::Nothing
}

/// An object with more in front.
fn with_head<'a>(head: &[u8], object: &[u8]) -> Heard<'a> {
    let mut out = head.to_vec();
    out.extend_from_slice(object.strip_prefix(b"{").unwrap_or_default());
    Heard::Message(Cow::Owned(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(packet: &str) -> String {
        match hear(packet.as_bytes()) {
            Heard::Message(text) => String::from_utf8(text.into_owned()).unwrap(),
            other => panic!("{packet}: {other:?}"),
        }
    }

    #[test]
    fn what_is_said_are_events_with_acknowledgement() {
        let mut out = Vec::new();
        say(br#"{"room":"r","type":"subscribe"}"#, 3, &mut out);
        assert_eq!(out, br#"423["subscribe",{"room":"r","type":"subscribe"}]"#);
        say(br#"{"type":"request","action":"echo"}"#, 0, &mut out);
        assert_eq!(out, br#"420["request",{"type":"request","action":"echo"}]"#);
    }

    #[test]
    fn what_is_heard_is_native() {
        assert_eq!(
            message(r#"42["tick",{"room":"r","seq":3,"data":[1]}]"#),
            r#"{"room":"r","seq":3,"data":[1]}"#
        );
        assert_eq!(message(r#"4312[{"type":"response","data":[]}]"#), r#"{"type":"response","data":[]}"#);
        let subscribed = r#"{"status":"subscribed","seq":4}"#;
        let native = format!(r#"{{"type":"response","request_id":"s","data":{subscribed}}}"#);
        assert_eq!(message(&format!("430[{subscribed}]")), native);
        assert_eq!(message(r#"42["resync",{"room":"r"}]"#), r#"{"event":"resync","room":"r"}"#);
        assert_eq!(message(r#"42["error",{"error_code":"X"}]"#), r#"{"type":"error","error_code":"X"}"#);
    }

    #[test]
    fn what_comes_twice_counts_once() {
        let packets = [
            r#"42["_offset","3:r"]"#,
            r#"42["response",{"type":"response"}]"#,
            r#"42["subscribed",{"status":"subscribed"}]"#,
            r#"431[{"error_code":"X","message":"m"}]"#,
            r#"42["connect_response",{}]"#,
            "",
            "6",
            "42[",
        ];
        for packet in packets {
            assert_eq!(hear(packet.as_bytes()), Heard::Nothing, "{packet}");
        }
    }

    #[test]
    fn the_opening_is_answered() {
        assert_eq!(hear(br#"0{"sid":"a"}"#), Heard::Answer(b"40"));
        assert_eq!(hear(br#"40{"sid":"a"}"#), Heard::Entered);
        assert_eq!(hear(br#"44{"message":"no"}"#), Heard::Refused);
        assert_eq!(hear(b"2"), Heard::Answer(b"3"));
    }
}
