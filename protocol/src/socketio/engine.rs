//! Engine.IO packets, and the payloads that carry several of them over HTTP
//! (<https://socket.io/docs/v4/engine-io-protocol/>).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// Between the packets of a payload.
pub const SEPARATOR: u8 = 0x1e;
/// Most packets that one payload may have.
pub const MAX_PACKETS: usize = 1_024;

/// What a packet does; its text follows as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// `1`: the peer ends the session.
    Close,
    /// `2`, with what is to be echoed.
    Ping(&'a str),
    /// `3`, with what was echoed.
    Pong(&'a str),
    /// `4`: a message.
    Message(&'a str),
    /// `5`: the transport that carries this is the session's from now on.
    Upgrade,
    /// `6`: nothing; ends a poll.
    Noop,
}

/// The text is no packet that a client may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an Engine.IO packet")]
pub struct BadPacket;

impl<'a> Packet<'a> {
    /// Reads a client's packet from the text that carries it.
    ///
    /// # Errors
    /// When it is none, or `open`, which servers alone send.
    pub fn parse(text: &'a str) -> Result<Self, BadPacket> {
        let kind = text.as_bytes().first().ok_or(BadPacket)?;
        // The first byte is ASCII in every arm.
        let rest = || text.get(1..).unwrap_or_default();
        match kind {
            b'1' => Ok(Self::Close),
            b'2' => Ok(Self::Ping(rest())),
            b'3' => Ok(Self::Pong(rest())),
            b'4' => Ok(Self::Message(rest())),
            b'5' => Ok(Self::Upgrade),
            b'6' => Ok(Self::Noop),
            _ => Err(BadPacket),
        }
    }
}

/// The text of the packet that opens a session.
#[must_use]
pub fn open(sid: &str, upgrades: bool, ping_interval: u64, ping_timeout: u64, max_payload: usize) -> String {
    let upgrades: &[&str] = if upgrades { &["websocket"] } else { &[] };
    let handshake = json!({
        "sid": sid, "upgrades": upgrades, "pingInterval": ping_interval, "pingTimeout": ping_timeout,
        "maxPayload": max_payload,
    });
    format!("0{handshake}")
}

/// A packet of a payload.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// A packet as text.
    Text(&'a str),
    /// A binary message.
    Binary(Vec<u8>),
}

/// Takes a payload apart.
///
/// # Errors
/// When it is not UTF-8, has too many packets, or one that is none.
pub fn split(body: &[u8]) -> Result<Vec<Part<'_>>, BadPacket> {
    let body = std::str::from_utf8(body).map_err(|_| BadPacket)?;
    if memchr::memchr_iter(SEPARATOR, body.as_bytes()).count() >= MAX_PACKETS {
        return Err(BadPacket);
    }
    body.split(char::from(SEPARATOR)).map(part).collect()
}

fn part(text: &str) -> Result<Part<'_>, BadPacket> {
    match text.strip_prefix('b') {
        Some(encoded) => STANDARD.decode(encoded).map(Part::Binary).map_err(|_| BadPacket),
        None => Packet::parse(text).map(|_| Part::Text(text)),
    }
}

/// Appends a binary message to a payload.
pub fn put_binary(payload: &mut Vec<u8>, bytes: &[u8]) {
    payload.push(b'b');
    payload.extend_from_slice(STANDARD.encode(bytes).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_taken_apart() {
        let parts = split("4hello\u{1e}2\u{1e}bAQID\u{1e}4€".as_bytes()).unwrap();
        let expected = [Part::Text("4hello"), Part::Text("2"), Part::Binary(vec![1, 2, 3]), Part::Text("4€")];
        assert_eq!(parts, expected);
    }

    #[test]
    fn what_is_no_payload_is_an_error() {
        let many = "4\u{1e}".repeat(MAX_PACKETS);
        for body in
            [b"".as_slice(), b"abc", b"0{}", b"4a\x1e", b"b!!!", b"\xff", "€".as_bytes(), many.as_bytes()]
        {
            assert_eq!(
                split(body),
                Err(BadPacket),
                "{:?}",
                String::from_utf8_lossy(&body[..body.len().min(9)])
            );
        }
    }
}
