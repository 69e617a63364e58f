//! WebSocket frames (RFC 6455 §5): headers in both directions, masking, and the assembly of messages on the
//! server side.
//!
//! Invariants: nothing here looks into a payload except to unmask it and to check text for UTF-8; a decoder
//! never holds more than the configured message size. It must not know sockets, rooms or sessions.

#[cfg(test)]
mod tests;

use bytes::{BufMut, BytesMut};

use crate::close::CloseCode;

/// Longest frame header: 2 bytes, 8 bytes of length, 4 bytes of mask.
pub const MAX_HEADER_LEN: usize = 14;
/// Longest payload of a control frame (RFC 6455 §5.5).
pub const MAX_CONTROL_LEN: usize = 125;

/// Frame opcodes (RFC 6455 §11.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// Continues a fragmented message.
    Continuation = 0x0,
    /// UTF-8 text.
    Text = 0x1,
    /// Binary data.
    Binary = 0x2,
    /// Closes the connection.
    Close = 0x8,
    /// Asks for a pong with the same payload.
    Ping = 0x9,
    /// Answers a ping.
    Pong = 0xA,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }

    /// Control frames may stand between the fragments of a message (RFC 6455 §5.4).
    #[must_use]
    pub fn is_control(self) -> bool {
        (self as u8) & 0x8 != 0
    }
}

/// A decoded frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Last fragment of its message.
    pub fin: bool,
    /// What the frame carries.
    pub opcode: Opcode,
    /// The masking key; present on every frame from a client (RFC 6455 §5.1).
    pub mask: Option<[u8; 4]>,
    /// Bytes of the header itself; the payload starts here.
    pub header_len: usize,
    /// Bytes of the payload.
    pub payload_len: u64,
}

/// Why a byte stream is not a WebSocket message stream. Each has the close code that the peer is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A reserved bit is set though no extension was agreed on (RFC 6455 §5.2).
    #[error("reserved bit set")]
    ReservedBits,
    /// An opcode that RFC 6455 does not define.
    #[error("unknown opcode {0:#x}")]
    UnknownOpcode(u8),
    /// A frame from a client without a mask (RFC 6455 §5.1).
    #[error("client frame is not masked")]
    Unmasked,
    /// A control frame that is fragmented or longer than 125 bytes (RFC 6455 §5.5).
    #[error("bad control frame")]
    BadControl,
    /// A length with its top bit set (RFC 6455 §5.2).
    #[error("bad payload length")]
    BadLength,
    /// A continuation without a beginning, or a beginning inside a fragmented message (RFC 6455 §5.4).
    #[error("fragment out of place")]
    BadFragment,
    /// A close frame with a payload of one byte, or with a code that must not be sent (RFC 6455 §7.4).
    #[error("bad close frame")]
    BadClose,
    /// Text, or a close reason, that is not UTF-8 (RFC 6455 §8.1).
    #[error("text is not utf-8")]
    NotUtf8,
    /// The message is larger than the receiver accepts.
    #[error("message larger than {limit} bytes")]
    TooBig {
        /// The receiver's limit in bytes.
        limit: usize,
    },
}

impl FrameError {
    /// The close code that tells the peer what it did.
    #[must_use]
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::NotUtf8 => CloseCode::NotUtf8,
            Self::TooBig { .. } => CloseCode::TooBig,
            _ => CloseCode::ProtocolError,
        }
    }
}

/// Reads the header at the start of `buf`; `None` while it is not all there.
///
/// # Errors
/// When the bytes cannot be a frame of a connection without extensions.
pub fn decode_header(buf: &[u8]) -> Result<Option<Header>, FrameError> {
    let [first, second, rest @ ..] = buf else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err(FrameError::ReservedBits);
    }
    let fin = first & 0x80 != 0;
    let opcode = Opcode::from_bits(first & 0x0F).ok_or(FrameError::UnknownOpcode(first & 0x0F))?;
    let short = second & 0x7F;
    let (payload_len, len_bytes) = match short {
        126 => match rest.first_chunk::<2>() {
            Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 2),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(bytes) => (u64::from_be_bytes(*bytes), 8),
            None => return Ok(None),
        },
        n => (u64::from(n), 0),
    };
    if payload_len >> 63 != 0 {
        return Err(FrameError::BadLength);
    }
    if opcode.is_control() && (!fin || payload_len > MAX_CONTROL_LEN as u64) {
        return Err(FrameError::BadControl);
    }
    let mask = if second & 0x80 == 0 {
        None
    } else {
        match rest.get(len_bytes..).and_then(|r| r.first_chunk::<4>()) {
            Some(key) => Some(*key),
            None => return Ok(None),
        }
    };
    let header_len = 2 + len_bytes + if mask.is_some() { 4 } else { 0 };
    Ok(Some(Header { fin, opcode, mask, header_len, payload_len }))
}

/// Appends the header of an unfragmented, unmasked frame: what a server sends.
pub fn put_header(out: &mut BytesMut, opcode: Opcode, payload_len: usize) {
    out.put_u8(0x80 | opcode as u8);
    match payload_len {
        n @ 0..=125 => out.put_u8(n as u8),
        n @ 126..=0xFFFF => {
            out.put_u8(126);
            out.put_u16(n as u16);
        }
        n => {
            out.put_u8(127);
            out.put_u64(n as u64);
        }
    }
}

/// Bytes of the header that [`put_header`] writes for a payload of this length.
#[must_use]
pub fn header_len(payload_len: usize) -> usize {
    match payload_len {
        0..=125 => 2,
        126..=0xFFFF => 4,
        _ => 10,
    }
}

/// Appends a masked, unfragmented frame: what a client sends.
pub fn put_masked(out: &mut BytesMut, opcode: Opcode, payload: &[u8], key: [u8; 4]) {
    let at = out.len();
    put_header(out, opcode, payload.len());
    out[at + 1] |= 0x80;
    out.put_slice(&key);
    let start = out.len();
    out.put_slice(payload);
    apply_mask(&mut out[start..], key);
}

/// Appends a whole server frame.
pub fn put_frame(out: &mut BytesMut, opcode: Opcode, payload: &[u8]) {
    put_header(out, opcode, payload.len());
    out.put_slice(payload);
}

/// Appends a close frame with a code and a reason, which is cut to what fits (RFC 6455 §5.5.1).
pub fn put_close(out: &mut BytesMut, code: u16, reason: &str) {
    let mut end = reason.len().min(MAX_CONTROL_LEN - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    put_header(out, Opcode::Close, 2 + end);
    out.put_u16(code);
    out.put_slice(&reason.as_bytes()[..end]);
}

/// Masks or unmasks a payload in place (RFC 6455 §5.3).
pub fn apply_mask(payload: &mut [u8], key: [u8; 4]) {
    let wide = u64::from(u32::from_ne_bytes(key));
    let wide = wide | (wide << 32);
    let (chunks, tail) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// One thing that a client said.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A complete text message; checked UTF-8.
    Text(&'a str),
    /// A complete binary message.
    Binary(&'a [u8]),
    /// A ping, to be answered with the same payload.
    Ping(&'a [u8]),
    /// A pong.
    Pong(&'a [u8]),
    /// The peer closes; the code it gave, if any.
    Close(Option<u16>),
}

/// Assembles a client's frames into messages, for the server side of one connection.
///
/// Feed it the bytes as they come; what belongs to an unfinished frame is kept inside, at most one message of
/// `max_message` bytes and a header.
#[derive(Debug)]
pub struct Assembler {
    max_message: usize,
    /// Bytes of a frame that is not complete yet.
    partial: BytesMut,
    /// Payload of the fragments so far.
    fragments: Option<(Opcode, BytesMut)>,
}

impl Assembler {
    /// Accepts messages of up to `max_message` bytes.
    #[must_use]
    pub fn new(max_message: usize) -> Self {
        Self { max_message, partial: BytesMut::new(), fragments: None }
    }

    /// Consumes `input`, which is unmasked in place, and calls `sink` for every complete message.
    /// `sink` returns false to stop early; the rest of the input is then kept for the next call.
    ///
    /// # Errors
    /// At the first byte that breaks the protocol; the connection is to be closed with the error's close code.
    pub fn feed(
        &mut self,
        input: &mut [u8],
        mut sink: impl FnMut(Incoming<'_>) -> bool,
    ) -> Result<(), FrameError> {
        if self.partial.is_empty() {
            let used = self.consume(input, &mut sink)?;
            self.partial.extend_from_slice(&input[used..]);
            return Ok(());
        }
        let mut held = std::mem::take(&mut self.partial);
        held.extend_from_slice(input);
        let used = self.consume(&mut held, &mut sink)?;
        if used < held.len() {
            bytes::Buf::advance(&mut held, used);
            self.partial = held;
        }
        Ok(())
    }

    /// True while bytes wait that [`feed`](Self::feed) has not handed over, be it part of a frame or the rest
    /// after an early stop.
    #[must_use]
    pub fn has_rest(&self) -> bool {
        !self.partial.is_empty()
    }

    /// What was not handed over, as it came.
    #[must_use]
    pub fn into_rest(self) -> BytesMut {
        self.partial
    }

    /// Bytes held for messages that are not complete.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.partial.capacity() + self.fragments.as_ref().map_or(0, |(_, b)| b.capacity())
    }

    /// Handles the complete frames at the start of `buf` and tells how many bytes they were.
    fn consume(
        &mut self,
        buf: &mut [u8],
        sink: &mut impl FnMut(Incoming<'_>) -> bool,
    ) -> Result<usize, FrameError> {
        let mut at = 0;
        while let Some(header) = decode_header(&buf[at..])? {
            let key = header.mask.ok_or(FrameError::Unmasked)?;
            self.admit(&header)?;
            let start = at + header.header_len;
            // `admit` bounded the length, so it fits.
            let end = start + header.payload_len as usize;
            let Some(payload) = buf.get_mut(start..end) else { break };
            apply_mask(payload, key);
            at = end;
            if !self.frame(header, payload, sink)? {
                break;
            }
        }
        Ok(at)
    }

    /// Refuses a frame by its header alone, before a byte of its payload is kept.
    fn admit(&self, header: &Header) -> Result<(), FrameError> {
        if header.opcode.is_control() {
            return Ok(());
        }
        if self.fragments.is_some() != (header.opcode == Opcode::Continuation) {
            return Err(FrameError::BadFragment);
        }
        let so_far = self.fragments.as_ref().map_or(0, |(_, held)| held.len());
        if header.payload_len > (self.max_message - so_far) as u64 {
            return Err(FrameError::TooBig { limit: self.max_message });
        }
        Ok(())
    }

    fn frame(
        &mut self,
        header: Header,
        payload: &[u8],
        sink: &mut impl FnMut(Incoming<'_>) -> bool,
    ) -> Result<bool, FrameError> {
        match header.opcode {
            Opcode::Ping => Ok(sink(Incoming::Ping(payload))),
            Opcode::Pong => Ok(sink(Incoming::Pong(payload))),
            Opcode::Close => Ok(sink(Incoming::Close(parse_close(payload)?))),
            Opcode::Text | Opcode::Binary if header.fin => deliver(header.opcode, payload, sink),
            opcode => {
                let (first, mut held) =
                    self.fragments.take().unwrap_or_else(|| (opcode, BytesMut::with_capacity(payload.len())));
                held.extend_from_slice(payload);
                if header.fin {
                    deliver(first, &held, sink)
                } else {
                    self.fragments = Some((first, held));
                    Ok(true)
                }
            }
        }
    }
}

fn deliver(
    opcode: Opcode,
    payload: &[u8],
    sink: &mut impl FnMut(Incoming<'_>) -> bool,
) -> Result<bool, FrameError> {
    if opcode == Opcode::Text {
        let text = std::str::from_utf8(payload).map_err(|_| FrameError::NotUtf8)?;
        Ok(sink(Incoming::Text(text)))
    } else {
        Ok(sink(Incoming::Binary(payload)))
    }
}

/// Reads the payload of a close frame (RFC 6455 §5.5.1, §7.4).
///
/// # Errors
/// When it is one byte long, its code must not be sent over the wire, or its reason is not UTF-8.
pub fn parse_close(payload: &[u8]) -> Result<Option<u16>, FrameError> {
    match payload {
        [] => Ok(None),
        [_] => Err(FrameError::BadClose),
        [a, b, reason @ ..] => {
            let code = u16::from_be_bytes([*a, *b]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(FrameError::BadClose);
            }
            std::str::from_utf8(reason).map_err(|_| FrameError::NotUtf8)?;
            Ok(Some(code))
        }
    }
}
