//! Server frames out of a byte stream: keeps only what is incomplete.

use tickmesh_protocol::frame::{self, FrameError, Opcode};

/// One thing that the server said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    /// A complete message, text or binary.
    Message(&'a [u8]),
    /// A ping to be answered with the same payload.
    Ping(&'a [u8]),
    /// The server closes; the code it gave.
    Close(Option<u16>),
}

/// The unfinished end of one connection's stream.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// Start of a frame that is not complete yet; empty most of the time.
    partial: Vec<u8>,
    /// Payloads of a fragmented message so far.
    fragments: Vec<u8>,
}

impl Inbox {
    /// Bytes that have to stand in front of the next ones that are read.
    pub(crate) fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Keeps bytes for later without looking at them.
    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
    }

    /// Hands every complete frame of `bytes` to `sink` and keeps the rest. `bytes` begins with what
    /// [`partial`](Self::partial) returned.
    pub(crate) fn feed(
        &mut self,
        bytes: &[u8],
        mut sink: impl FnMut(Incoming<'_>),
    ) -> Result<(), FrameError> {
        let mut rest = bytes;
        while let Some(header) = frame::decode_header(rest)? {
            let end = (header.header_len as u64).saturating_add(header.payload_len);
            if (rest.len() as u64) < end {
                break;
            }
            let (whole, after) = rest.split_at(end as usize);
            let payload = &whole[header.header_len..];
            rest = after;
            match header.opcode {
                Opcode::Text | Opcode::Binary if header.fin => sink(Incoming::Message(payload)),
                Opcode::Text | Opcode::Binary | Opcode::Continuation => {
                    self.fragments.extend_from_slice(payload);
                    if header.fin {
                        sink(Incoming::Message(&std::mem::take(&mut self.fragments)));
                    }
                }
                Opcode::Ping => sink(Incoming::Ping(payload)),
                Opcode::Pong => {}
                Opcode::Close => sink(Incoming::Close(frame::parse_close(payload)?)),
            }
        }
        self.partial.clear();
        self.partial.extend_from_slice(rest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    #[test]
    fn any_split_gives_the_same_messages() {
        let mut wire = BytesMut::new();
        frame::put_frame(&mut wire, Opcode::Text, b"one");
        frame::put_frame(&mut wire, Opcode::Ping, b"p");
        frame::put_frame(&mut wire, Opcode::Text, &[b'x'; 300]);
        wire.extend_from_slice(&[0x01, 2, b'a', b'b', 0x80, 1, b'c']);
        frame::put_close(&mut wire, 4003, "slow consumer");
        let x = [b'x'; 300];
        let expected = ["one", "p", std::str::from_utf8(&x).unwrap(), "abc", "4003"];
        for size in 1..wire.len() {
            let mut inbox = Inbox::default();
            let mut seen = Vec::new();
            for part in wire.chunks(size) {
                let bytes = [inbox.partial(), part].concat();
                inbox
                    .feed(&bytes, |incoming| {
                        seen.push(match incoming {
                            Incoming::Message(text) | Incoming::Ping(text) => {
                                String::from_utf8(text.to_vec()).unwrap()
                            }
                            Incoming::Close(code) => code.unwrap().to_string(),
                        });
                    })
                    .unwrap();
            }
            assert_eq!(seen, expected, "in parts of {size}");
            assert!(inbox.partial().is_empty());
        }
    }

    #[test]
    fn a_broken_frame_is_an_error() {
        assert_eq!(Inbox::default().feed(&[0xF1, 0], |_| {}), Err(FrameError::ReservedBits));
    }
}
