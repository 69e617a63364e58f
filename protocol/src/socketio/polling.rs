//! A session's client on HTTP long-polling: packets wait here, as WebSocket frames, for the next request, and go over to
//! a WebSocket when the client has made one
//! (<https://socket.io/docs/v4/engine-io-protocol/#upgrade>).
//!
//! Invariants: one poll, one post and one WebSocket at a time, a second poll or post ends the session; what one transport
//! was given the other is not; both directions are bounded. It must not know HTTP, and looks at the kind of a packet only.

use bytes::BytesMut;

use super::engine::{self, Part, SEPARATOR};
use crate::close::CloseCode;
use crate::frame::{self, Opcode, decode_header};

/// Bytes for the client beyond which the session has to wait.
const MAX_DOWN: usize = 64 * 1024;

/// The machine; see the module's documentation.
#[derive(Debug)]
pub struct Polling {
    /// The client's packets, as masked frames, for the session.
    up: BytesMut,
    /// The session's frames, for the client.
    down: BytesMut,
    max_payload: usize,
    stage: Stage,
    /// A request waits for packets.
    waiting: bool,
    /// Another poll came while one waited.
    doubled: bool,
    /// The client ended the session itself.
    left: bool,
    /// A WebSocket is there that may become the transport.
    offered: bool,
    /// The request that waits came when it was there already.
    late: bool,
}

/// What becomes of a request that wants packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Polled {
    /// It is answered with this payload.
    Payload(Vec<u8>),
    /// It is not served any more.
    Refused(Refusal),
    /// It waits for packets.
    Waits,
    /// It waits for its client's WebSocket to become the transport, but not for long:
    /// [`hurry_poll`](Polling::hurry_poll) ends that.
    WaitsBriefly,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Requests alone.
    Polling,
    /// A WebSocket is there, but not yet in use.
    Probing,
    /// The WebSocket is the transport: requests are refused.
    Upgraded,
    /// The session is over.
    Closed,
}

/// A request that is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The session is over, or its transport is another.
    #[error("unknown session")]
    Unknown,
    /// There is one like it already: the session ends.
    #[error("one request of a kind at a time")]
    Second,
    /// Its body holds no packets: the session ends.
    #[error("bad payload")]
    Payload,
}

impl Polling {
    /// Nothing said yet. Answers have at most `max_payload` bytes, or one packet.
    #[must_use]
    pub fn new(max_payload: usize) -> Self {
        Self {
            up: BytesMut::new(),
            down: BytesMut::new(),
            max_payload,
            stage: Stage::Polling,
            waiting: false,
            doubled: false,
            left: false,
            offered: false,
            late: false,
        }
    }

    // ---- the session's side ----

    /// What the client said, for the session.
    pub fn take_up(&mut self, most: usize) -> BytesMut {
        let most = most.min(self.up.len());
        self.up.split_to(most)
    }

    /// Takes frames for the client, and says how many bytes of them; 0 where too much waits already.
    pub fn give_down(&mut self, bytes: &[u8]) -> usize {
        if self.down.len() >= MAX_DOWN || matches!(self.stage, Stage::Upgraded | Stage::Closed) {
            return 0;
        }
        self.down.extend_from_slice(bytes);
        bytes.len()
    }

    /// The session is over: what waits is still given out.
    pub fn close(&mut self) {
        self.stage = Stage::Closed;
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.stage == Stage::Closed
    }

    /// Whether something waits for the session.
    #[must_use]
    pub fn has_up(&self) -> bool {
        !self.up.is_empty()
    }

    /// Whether [`give_down`](Self::give_down) takes something.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.down.len() < MAX_DOWN
    }

    // ---- the client's side ----

    /// A request wants packets: [`poll`](Self::poll) until there are some, and then [`end_poll`](Self::end_poll).
    ///
    /// # Errors
    /// [`Refusal::Second`] where one waits already; that one is to be answered, too: the session is over.
    pub fn begin_poll(&mut self) -> Result<(), Refusal> {
        if self.timed_out() {
            // Who kept silent for so long counts as gone: nothing of this session reaches anybody any more.
            self.down.clear();
            self.close();
        }
        match self.stage {
            Stage::Closed if !self.down.is_empty() => {}
            Stage::Upgraded | Stage::Closed => return Err(Refusal::Unknown),
            Stage::Polling | Stage::Probing => {}
        }
        if self.waiting {
            self.doubled = true;
            self.close();
            return Err(Refusal::Second);
        }
        self.waiting = true;
        self.late = self.offered;
        Ok(())
    }

    /// The request is answered, or gone.
    pub fn end_poll(&mut self) {
        self.waiting = false;
    }

    /// The request that waits has waited long enough for the client's WebSocket.
    pub fn hurry_poll(&mut self) {
        self.late = false;
    }

    /// What becomes of the request that waits.
    pub fn poll(&mut self) -> Polled {
        if self.doubled {
            return Polled::Payload(b"1".to_vec());
        }
        // Who ends the session needs not be told: what waits for packets is just let go.
        let end = if self.left { b'6' } else { b'1' };
        let mut payload = Vec::new();
        while let Ok(Some(header)) = decode_header(&self.down) {
            let length = header.header_len + header.payload_len as usize;
            if length > self.down.len() || (!payload.is_empty() && payload.len() + length > self.max_payload)
            {
                break;
            }
            let frame = self.down.split_to(length);
            if !payload.is_empty() {
                payload.push(SEPARATOR);
            }
            match header.opcode {
                Opcode::Binary => engine::put_binary(&mut payload, &frame[header.header_len..]),
                Opcode::Close => payload.push(end),
                _ => payload.extend_from_slice(&frame[header.header_len..]),
            }
        }
        match self.stage {
            _ if !payload.is_empty() => Polled::Payload(payload),
            Stage::Closed => Polled::Payload(vec![end]),
            Stage::Polling => Polled::Waits,
            // Clients upgrade when no poll of theirs waits; the one that came last may have been overtaken by it.
            Stage::Probing if self.late => Polled::WaitsBriefly,
            Stage::Upgraded if self.late => Polled::Refused(Refusal::Unknown),
            Stage::Probing | Stage::Upgraded => Polled::Payload(b"6".to_vec()),
        }
    }

    /// Whether the session ended because its client kept silent.
    fn timed_out(&self) -> bool {
        let mut rest = &self.down[..];
        while let Ok(Some(header)) = decode_header(rest) {
            let end =
                usize::try_from(header.payload_len).ok().and_then(|len| len.checked_add(header.header_len));
            let Some((frame, behind)) = end.and_then(|end| rest.split_at_checked(end)) else { return false };
            if header.opcode == Opcode::Close {
                return frame[header.header_len..].starts_with(&CloseCode::Idle.code().to_be_bytes());
            }
            rest = behind;
        }
        false
    }

    /// A request brings packets.
    ///
    /// # Errors
    /// When the session is over or its transport another, or when they are none, which ends it.
    pub fn post(&mut self, body: &[u8]) -> Result<(), Refusal> {
        if matches!(self.stage, Stage::Upgraded | Stage::Closed) {
            return Err(Refusal::Unknown);
        }
        let Ok(parts) = engine::split(body) else {
            self.close();
            return Err(Refusal::Payload);
        };
        for part in parts {
            self.left |= matches!(part, Part::Text(text) if text.starts_with('1'));
            match part {
                Part::Text(text) => self.put_up(Opcode::Text, text.as_bytes()),
                Part::Binary(bytes) => self.put_up(Opcode::Binary, &bytes),
            }
        }
        Ok(())
    }

    fn put_up(&mut self, opcode: Opcode, payload: &[u8]) {
        // Clients' frames are masked (RFC 6455 §5.3); this mask changes nothing.
        frame::put_masked(&mut self.up, opcode, payload, [0; 4]);
    }

    /// A WebSocket of this client is there. False where it is one too many.
    pub fn offer(&mut self) -> bool {
        let may = self.stage == Stage::Polling && !self.offered;
        self.offered |= may;
        may
    }

    /// Whether a WebSocket is there of which it is open what becomes.
    #[must_use]
    pub fn is_offered(&self) -> bool {
        self.offered && matches!(self.stage, Stage::Polling | Stage::Probing)
    }

    /// It asks to be the transport. False where that is not possible.
    pub fn probe(&mut self) -> bool {
        let may = self.stage == Stage::Polling && self.offered;
        if may {
            self.stage = Stage::Probing;
        }
        may
    }

    /// The WebSocket is gone before it became the transport.
    pub fn abandon(&mut self) {
        self.offered = false;
        if self.stage == Stage::Probing {
            self.stage = Stage::Polling;
        }
    }

    /// The WebSocket is the transport. What it has to be given first comes back; what it said first, `early`, goes to the
    /// session behind what was posted. None where the session is over.
    pub fn upgrade(&mut self, early: &[u8]) -> Option<BytesMut> {
        if self.stage != Stage::Probing {
            return None;
        }
        self.stage = Stage::Upgraded;
        self.up.extend_from_slice(early);
        Some(std::mem::take(&mut self.down))
    }

    /// Whether the session's bytes travel on the WebSocket now.
    #[must_use]
    pub fn is_upgraded(&self) -> bool {
        self.stage == Stage::Upgraded
    }

    /// All frames of the client that still wait, for whoever reads its WebSocket from now on.
    pub fn take_rest(&mut self) -> BytesMut {
        std::mem::take(&mut self.up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(polling: &mut Polling, text: &str) {
        let mut frame = BytesMut::new();
        frame::put_frame(&mut frame, Opcode::Text, text.as_bytes());
        assert_eq!(polling.give_down(&frame), frame.len());
    }

    fn polled(polling: &mut Polling) -> Option<String> {
        match polling.poll() {
            Polled::Payload(bytes) => Some(String::from_utf8(bytes).unwrap()),
            _ => None,
        }
    }

    #[test]
    fn packets_wait_for_a_poll_and_leave_together() {
        let mut polling = Polling::new(100);
        polling.begin_poll().unwrap();
        assert_eq!(polled(&mut polling), None);
        text(&mut polling, "4a");
        let mut binary = BytesMut::new();
        frame::put_frame(&mut binary, Opcode::Binary, &[1, 2, 3]);
        polling.give_down(&binary[..3]);
        assert_eq!(polled(&mut polling).unwrap(), "4a", "only whole frames");
        polling.give_down(&binary[3..]);
        text(&mut polling, "4b");
        assert_eq!(polled(&mut polling).unwrap(), "bAQID\u{1e}4b");
    }

    #[test]
    fn a_payload_has_a_size() {
        let mut polling = Polling::new(10);
        for n in 0..5 {
            text(&mut polling, &format!("4{n}{n}{n}"));
        }
        let seen: Vec<_> = std::iter::from_fn(|| polled(&mut polling)).collect();
        assert_eq!(seen, ["4000\u{1e}4111", "4222\u{1e}4333", "4444"]);
        text(&mut polling, &format!("4{}", "x".repeat(100)));
        assert_eq!(polled(&mut polling).unwrap().len(), 101);
    }

    #[test]
    fn a_second_poll_ends_the_session_for_both() {
        let mut polling = Polling::new(100);
        polling.begin_poll().unwrap();
        assert_eq!(polling.begin_poll(), Err(Refusal::Second));
        assert_eq!(polled(&mut polling).unwrap(), "1");
        polling.end_poll();
        assert_eq!(polling.begin_poll(), Err(Refusal::Unknown));
    }

    #[test]
    fn a_session_that_ended_still_tells_what_it_had_to_say() {
        let mut polling = Polling::new(100);
        text(&mut polling, "41");
        polling.close();
        polling.begin_poll().unwrap();
        assert_eq!(polled(&mut polling).unwrap(), "41");
        polling.end_poll();
        assert_eq!(polling.begin_poll(), Err(Refusal::Unknown));
        assert_eq!(polling.post(b"4a"), Err(Refusal::Unknown));
    }

    #[test]
    fn an_upgrade_loses_and_doubles_nothing() {
        let mut polling = Polling::new(100);
        polling.post(b"4a\x1e4b").unwrap();
        polling.begin_poll().unwrap();
        assert!(!polling.probe(), "no WebSocket is there");
        assert!(polling.offer());
        assert!(!polling.offer(), "one at a time");
        assert_eq!(polled(&mut polling), None);
        assert!(polling.probe());
        assert_eq!(polled(&mut polling).unwrap(), "6", "the poll that waits is let go");
        polling.end_poll();
        text(&mut polling, "4c");
        let mut early = BytesMut::new();
        frame::put_masked(&mut early, Opcode::Text, b"4d", [1, 2, 3, 4]);
        let down = polling.upgrade(&early).unwrap();
        assert_eq!(&down[2..], b"4c");
        assert_eq!(polling.post(b"4e"), Err(Refusal::Unknown));
        assert_eq!(polling.give_down(b"x"), 0);
        let mut rest = polling.take_rest();
        let mut seen = Vec::new();
        frame::Assembler::new(100)
            .feed(&mut rest, |incoming| {
                seen.push(format!("{incoming:?}"));
                true
            })
            .unwrap();
        assert_eq!(seen, ["Text(\"4a\")", "Text(\"4b\")", "Text(\"4d\")"]);
    }

    #[test]
    fn a_probe_that_goes_away_changes_nothing() {
        let mut polling = Polling::new(100);
        assert!(polling.offer() && polling.probe() && polling.is_offered());
        polling.abandon();
        assert!(!polling.is_offered());
        text(&mut polling, "4a");
        assert_eq!(polled(&mut polling).unwrap(), "4a");
        assert!(polling.upgrade(b"").is_none());
        assert!(polling.offer(), "there may be another");
    }

    #[test]
    fn a_poll_that_waits_is_let_go_even_by_an_upgrade_that_is_over_at_once() {
        let mut polling = Polling::new(100);
        polling.begin_poll().unwrap();
        assert!(polling.offer() && polling.probe());
        polling.upgrade(b"").unwrap();
        assert_eq!(polled(&mut polling).unwrap(), "6");
    }

    #[test]
    fn a_poll_that_comes_behind_the_websocket_waits_for_what_becomes_of_that() {
        let mut polling = Polling::new(100);
        assert!(polling.offer());
        polling.begin_poll().unwrap();
        assert_eq!(polling.poll(), Polled::Waits);
        assert!(polling.probe());
        assert_eq!(polling.poll(), Polled::WaitsBriefly);
        text(&mut polling, "4a");
        assert_eq!(polled(&mut polling).unwrap(), "4a", "packets do not wait");
        polling.hurry_poll();
        assert_eq!(polled(&mut polling).unwrap(), "6");
        polling.end_poll();
        polling.begin_poll().unwrap();
        polling.upgrade(b"").unwrap();
        assert_eq!(polling.poll(), Polled::Refused(Refusal::Unknown));
    }

    #[test]
    fn who_leaves_is_let_go_and_told_nothing() {
        for waits in [true, false] {
            let mut polling = Polling::new(100);
            if waits {
                polling.begin_poll().unwrap();
            }
            polling.post(b"4a\x1e1").unwrap();
            let mut end = BytesMut::new();
            frame::put_close(&mut end, CloseCode::Normal.code(), "");
            polling.give_down(&end);
            polling.close();
            if !waits {
                polling.begin_poll().unwrap();
            }
            assert_eq!(polled(&mut polling).unwrap(), "6");
            polling.end_poll();
            assert_eq!(polling.begin_poll(), Err(Refusal::Unknown));
        }
    }

    #[test]
    fn who_kept_silent_too_long_is_told_nothing_more() {
        for closed in [true, false] {
            let mut polling = Polling::new(100);
            text(&mut polling, "2");
            let mut end = BytesMut::new();
            frame::put_close(&mut end, CloseCode::Idle.code(), CloseCode::Idle.reason());
            polling.give_down(&end);
            if closed {
                polling.close();
            }
            assert_eq!(polling.begin_poll(), Err(Refusal::Unknown));
            assert!(polling.is_closed());
        }
    }

    #[test]
    fn what_is_no_payload_ends_the_session() {
        let mut polling = Polling::new(100);
        assert_eq!(polling.post(b"abc"), Err(Refusal::Payload));
        assert!(polling.is_closed());
    }
}
