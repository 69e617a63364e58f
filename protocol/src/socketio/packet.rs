//! Socket.IO packets, which travel in Engine.IO messages (<https://socket.io/docs/v4/socket-io-protocol/>).
//!
//! A packet with binary attachments is followed by one binary message for each; its JSON has placeholders for them, which
//! nobody here replaces.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Most attachments of one packet.
pub const MAX_ATTACHMENTS: usize = 64;

/// What a packet does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Enters a namespace.
    Connect = 0,
    /// Leaves it.
    Disconnect = 1,
    /// An event.
    Event = 2,
    /// Answers an event.
    Ack = 3,
    /// A namespace is not entered. Sent by servers alone.
    ConnectError = 4,
    /// An event with attachments.
    BinaryEvent = 5,
    /// An answer with attachments.
    BinaryAck = 6,
}

/// A packet of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// What it does.
    pub kind: Kind,
    /// How many binary messages follow.
    pub attachments: usize,
    /// With its slash.
    pub namespace: &'a str,
    /// By which an event is acknowledged.
    pub id: Option<u64>,
    /// JSON text: of a connect an object, of events and acknowledgements an array. Checked to be JSON by
    /// [`Packet::parse`] where it is an array.
    pub data: Option<&'a str>,
}

/// The text is no packet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// No type, or none that a client sends.
    #[error("unknown packet type")]
    Kind,
    /// A number that is none, or too large.
    #[error("bad number of attachments, or id")]
    Number,
    /// The payload is not what the type asks for.
    #[error("bad payload")]
    Payload,
}

/// What an event says.
#[derive(Debug)]
pub struct Event<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// Its arguments, JSON text each.
    pub arguments: Vec<&'a str>,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Packet<'a> {
    /// Reads a packet from the text of a message.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &'a str) -> Result<Self, PacketError> {
        let kind = match text.as_bytes().first() {
            Some(b'0') => Kind::Connect,
            Some(b'1') => Kind::Disconnect,
            Some(b'2') => Kind::Event,
            Some(b'3') => Kind::Ack,
            Some(b'5') => Kind::BinaryEvent,
            Some(b'6') => Kind::BinaryAck,
            _ => return Err(PacketError::Kind),
        };
        let mut rest = text.get(1..).unwrap_or_default();
        let mut attachments = 0;
        if matches!(kind, Kind::BinaryEvent | Kind::BinaryAck) {
            let (digits, later) = rest.split_once('-').ok_or(PacketError::Number)?;
            attachments = number(digits)?.ok_or(PacketError::Number)? as usize;
            rest = later;
            if attachments > MAX_ATTACHMENTS {
                return Err(PacketError::Number);
            }
        }
        let mut namespace = "/";
        if rest.starts_with('/') {
            // A packet that is nothing but its namespace may lack the comma.
            (namespace, rest) = rest.split_once(',').unwrap_or((rest, ""));
        }
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (id, data) = rest.split_at(digits);
        let id = number(id)?;
        let data = Some(data).filter(|data| !data.is_empty());
        let fits = match (kind, data) {
            (Kind::Connect, None) | (Kind::Disconnect, None) => true,
            (Kind::Connect, Some(data)) => {
                data.starts_with('{') && serde_json::from_str::<&RawValue>(data).is_ok()
            }
            (Kind::Event | Kind::BinaryEvent, Some(_)) => true,
            (Kind::Ack | Kind::BinaryAck, Some(data)) => {
                id.is_some() && serde_json::from_str::<Vec<&RawValue>>(data).is_ok()
            }
            _ => false,
        };
        if !fits {
            return Err(PacketError::Payload);
        }
        Ok(Self { kind, attachments, namespace, id, data })
    }

    /// What an event says.
    ///
    /// # Errors
    /// When the payload is not an array that begins with a name.
    pub fn event(&self) -> Result<Event<'a>, PacketError> {
        let data = self.data.unwrap_or_default();
        let values: Vec<&RawValue> = serde_json::from_str(data).map_err(|_| PacketError::Payload)?;
        let (name, arguments) = values.split_first().ok_or(PacketError::Payload)?;
        let Name(name) = serde_json::from_str(name.get()).map_err(|_| PacketError::Payload)?;
        Ok(Event { name, arguments: arguments.iter().map(|value| value.get()).collect() })
    }
}

fn number(digits: &str) -> Result<Option<u64>, PacketError> {
    if digits.is_empty() {
        return Ok(None);
    }
    // A sign would parse, too.
    if digits.len() > 15 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(PacketError::Number);
    }
    digits.parse().map(Some).map_err(|_| PacketError::Number)
}

/// The text of an Engine.IO message with a packet; `data` is JSON text.
#[must_use]
pub fn message(kind: Kind, attachments: usize, namespace: &str, id: Option<u64>, data: &str) -> String {
    let mut out = String::with_capacity(data.len() + namespace.len() + 24);
    // Writing to a string cannot fail.
    let _ = write!(out, "4{}", kind as u8);
    if matches!(kind, Kind::BinaryEvent | Kind::BinaryAck) {
        let _ = write!(out, "{attachments}-");
    }
    if namespace != "/" {
        let _ = write!(out, "{namespace},");
    }
    if let Some(id) = id {
        let _ = write!(out, "{id}");
    }
    out.push_str(data);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_protocol_document() {
        let packet =
            |kind, attachments, namespace, id, data| Packet { kind, attachments, namespace, id, data };
        let cases = [
            ("0", packet(Kind::Connect, 0, "/", None, None)),
            (
                "0/admin,{\"token\":\"x\"}",
                packet(Kind::Connect, 0, "/admin", None, Some("{\"token\":\"x\"}")),
            ),
            ("1/admin,", packet(Kind::Disconnect, 0, "/admin", None, None)),
            ("2[\"foo\"]", packet(Kind::Event, 0, "/", None, Some("[\"foo\"]"))),
            ("2/admin,12[\"foo\"]", packet(Kind::Event, 0, "/admin", Some(12), Some("[\"foo\"]"))),
            ("3/admin,13[\"bar\"]", packet(Kind::Ack, 0, "/admin", Some(13), Some("[\"bar\"]"))),
            (
                "51-/admin,12[\"baz\",{\"_placeholder\":true,\"num\":0}]",
                packet(
                    Kind::BinaryEvent,
                    1,
                    "/admin",
                    Some(12),
                    Some("[\"baz\",{\"_placeholder\":true,\"num\":0}]"),
                ),
            ),
            ("61-15[{}]", packet(Kind::BinaryAck, 1, "/", Some(15), Some("[{}]"))),
        ];
        for (text, expected) in cases {
            let parsed = Packet::parse(text).unwrap();
            assert_eq!(parsed, expected);
            if text != "1/admin," {
                let Packet { kind, attachments, namespace, id, data } = parsed;
                let again = message(kind, attachments, namespace, id, data.unwrap_or_default());
                assert_eq!(again, format!("4{text}"));
            }
        }
    }

    #[test]
    fn what_is_no_packet_is_an_error() {
        let cases = [
            "",
            "a",
            "4",
            "7",
            "0[]",
            "0{",
            "1{}",
            "2",
            "3[]",
            "312{}",
            "5[\"a\"]",
            "5-[\"a\"]",
            "5+1-[\"a\"]",
            "565-[\"a\"]",
            "51",
            "29999999999999999[\"a\"]",
        ];
        for text in cases {
            assert!(Packet::parse(text).is_err(), "{text}");
        }
        for text in ["2{}", "2[]", "2[1]", "2[\"a\"", "2abc[\"a\"]", "2[\"a\"] x"] {
            assert!(Packet::parse(text).unwrap().event().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_packet_or_an_error(text in "[0-9]{0,3}(-|/[a-z]{0,3},)?[0-9]{0,2}.{0,20}") {
            if let Ok(packet) = Packet::parse(&text) {
                let _ = packet.event();
            }
        }
    }
}
