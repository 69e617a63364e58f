//! One room that a session follows: the gate while its history is read, and the delivery after it.

use std::sync::Arc;

use bytes::Bytes;

use crate::batch::{self, Batch, Prepared};
use crate::close::CloseCode;
use crate::conflate::{Latest, Next};
use crate::encode::{self, Encoding, Stamp};
use crate::error::{ErrorCode, Failure};
use crate::link::{Change, SlotPosition};
use crate::message::{Delivery, Fields, Replay, Subscribe};
use crate::outbox::{Kind, Mark};
use crate::position::Position;
use crate::room::RoomName;

use super::socketio::Answer;
use super::{
    Command, Now, Occurrence, Purpose, Session, Stitched, SubscriptionSnapshot, Ticket, Waiting, Wire,
    actions,
};

/// Milliseconds before a log that could not be read is read again.
const RETRY_MS: u64 = 200;

/// The state of one subscription.
#[derive(Debug)]
pub(super) struct Subscription {
    slot: u32,
    delivery: Delivery,
    min_interval_ms: u64,
    fields: Option<Fields>,
    /// See [`SubscriptionSnapshot::stream`].
    stream: bool,
    /// What was asked for first: decides whether `recovered` is told.
    recover: bool,
    /// Older rows were asked for.
    backfill: bool,
    /// See [`Latest::carried`]; waits here until the gate opens.
    carried: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The history is being read: live messages wait.
    Gated {
        ticket: Option<Ticket>,
        from: Option<Position>,
        gate: Vec<Arc<Batch>>,
        messages: usize,
        overflowed: bool,
    },
    /// Every message goes straight on.
    Live {
        /// The newest message that was queued, sent or conflated.
        position: Position,
        /// For `latest`.
        table: Option<Box<Latest>>,
        /// The room is in the session's `due` or `held`.
        scheduled: bool,
    },
}

impl State {
    fn gated(from: Option<Position>) -> Self {
        Self::Gated { ticket: None, from, gate: Vec::new(), messages: 0, overflowed: false }
    }
}

impl Subscription {
    pub(super) fn new(options: &Subscribe, slot: u32, stream: bool) -> Self {
        let from = match &options.replay {
            Replay::After(position) => Some(position.clone()),
            _ => None,
        };
        Self {
            slot,
            delivery: options.delivery,
            min_interval_ms: options.min_interval_ms,
            fields: options.fields.clone(),
            stream,
            recover: from.is_some(),
            backfill: options.backfill.is_some(),
            carried: 0,
            state: State::gated(from),
        }
    }

    pub(super) fn restored(snapshot: &SubscriptionSnapshot) -> Self {
        let from = Some(snapshot.position.clone());
        Self {
            slot: snapshot.slot,
            delivery: snapshot.delivery,
            min_interval_ms: snapshot.min_interval_ms,
            fields: snapshot.fields.clone(),
            stream: snapshot.stream,
            recover: true,
            backfill: false,
            carried: snapshot.carried,
            state: State::gated(from),
        }
    }

    pub(super) fn await_reply(&mut self, to: Ticket) {
        if let State::Gated { ticket, .. } = &mut self.state {
            *ticket = Some(to);
        }
    }

    pub(super) fn delivery(&self) -> Delivery {
        self.delivery
    }

    pub(super) fn seq(&self) -> u64 {
        match &self.state {
            State::Gated { from, .. } => from.as_ref().map_or(0, |position| position.seq),
            State::Live { position, .. } => position.seq,
        }
    }

    /// Its history is being read.
    pub(super) fn is_gated(&self) -> bool {
        matches!(self.state, State::Gated { .. })
    }

    pub(super) fn slot(&self) -> u32 {
        self.slot
    }

    /// What was sent last.
    pub(super) fn slot_position(&self) -> SlotPosition {
        let (seq, carried) = match &self.state {
            State::Live { table: Some(table), .. } => (table.sent_seq(), table.carried()),
            State::Live { position, table: None, .. } => (position.seq, 0),
            State::Gated { from, .. } => (from.as_ref().map_or(0, |from| from.seq), self.carried),
        };
        SlotPosition { slot: self.slot, seq, carried }
    }

    pub(super) fn fields(&self) -> Option<&Fields> {
        self.fields.as_ref()
    }

    pub(super) fn set_fields(&mut self, fields: Option<Fields>) {
        self.fields = fields;
    }

    /// How its messages are written.
    pub(super) fn encoding(&self, wire: Wire) -> Encoding {
        if self.stream { Encoding::SocketIoStream } else { wire.encoding }
    }

    pub(super) fn is_stream(&self) -> bool {
        self.stream
    }

    /// The client wants its messages at a rate of its own, and that they replace each other is no sign of anything.
    pub(super) fn is_slow_by_wish(&self) -> bool {
        self.min_interval_ms > 0
    }

    pub(super) fn table_bytes(&self) -> usize {
        match &self.state {
            State::Live { table: Some(table), .. } => table.bytes(),
            _ => 0,
        }
    }

    pub(super) fn poll_latest(&mut self, now: u64) -> Next {
        match &mut self.state {
            State::Live { table: Some(table), .. } => table.poll(now),
            _ => Next::Empty,
        }
    }

    pub(super) fn set_scheduled(&mut self, to: bool) {
        if let State::Live { scheduled, .. } = &mut self.state {
            *scheduled = to;
        }
    }

    /// What another node needs to go on; `None` where the subscription was not answered yet.
    pub(super) fn snapshot(&self, room: &RoomName) -> Option<SubscriptionSnapshot> {
        let (position, carried) = match &self.state {
            State::Live { position, table: None, .. } => (position.clone(), 0),
            State::Live { position, table: Some(table), .. } => {
                (Position { epoch: position.epoch.clone(), seq: table.sent_seq() }, table.carried())
            }
            State::Gated { from, .. } => (from.clone()?, self.carried),
        };
        Some(SubscriptionSnapshot {
            slot: self.slot,
            room: room.clone(),
            position,
            delivery: self.delivery,
            min_interval_ms: self.min_interval_ms,
            fields: self.fields.clone(),
            carried,
            stream: self.stream,
        })
    }
}

impl Session {
    /// Takes messages of a room, which follow those of the calls before without a gap or start a new epoch.
    pub fn handle_batch(&mut self, now: Now, batch: &Arc<Batch>) {
        self.clock = now.mono;
        let limit = self.policy.max_gate_messages;
        let Some(subscription) = self.subscriptions.get_mut(batch.room()) else { return };
        self.last_used = now.mono;
        if let State::Gated { gate, messages, overflowed, .. } = &mut subscription.state {
            *messages += batch.len();
            *overflowed |= *messages > limit;
            if *overflowed {
                *gate = Vec::new();
            } else {
                gate.push(batch.clone());
            }
        } else {
            self.deliver(now, batch);
        }
    }

    /// Takes a notice for the session's user. It stands in the log of a room: a session that follows the room gets it from
    /// there, in order; any other gets it here and now, best effort.
    pub fn handle_notice(&mut self, now: Now, batch: &Arc<Batch>) {
        self.clock = now.mono;
        if self.ending.is_some() || self.subscriptions.contains_key(batch.room()) || self.is_outside() {
            return;
        }
        self.counters.notifications_out += batch.len() as u64;
        if self.face.is_some() {
            // Nobody comes back to a place in a room that was not followed.
            for message in batch.messages() {
                let frames = message.frame(self.wire.encoding, None);
                self.push(encode::split_first(&frames).0, Kind::Live(message.mark()), None, None);
            }
        } else {
            let bytes = whole(batch, self.wire.encoding, self.wire.batch);
            self.push(bytes, Kind::Live(batch.mark(0)), None, None);
        }
        if self.out.live_bytes() > self.policy.max_queue_bytes {
            self.close(CloseCode::SlowConsumer);
        }
    }

    /// The history has been read: answers the client and opens the gate.
    pub(super) fn subscribed(
        &mut self,
        now: Now,
        stamp: Stamp<'_>,
        ticket: Ticket,
        room: &RoomName,
        mut result: Result<Stitched, Failure>,
        respond: bool,
    ) {
        // The client may have left the room, and even come back, while its history was read.
        let Some(subscription) = self.subscriptions.get_mut(room) else {
            let failure = Failure::new(ErrorCode::SubscriptionFailed, "unsubscribed before it was set up");
            return self.fail(stamp, &failure);
        };
        let State::Gated { ticket: awaited, from, gate, overflowed, .. } = &mut subscription.state else {
            return;
        };
        if *awaited != Some(ticket) {
            let failure = Failure::new(ErrorCode::SubscriptionFailed, "unsubscribed before it was set up");
            return self.fail(stamp, &failure);
        }
        let (older, complete) = match &mut result {
            Ok(stitched) => (std::mem::take(&mut stitched.older), stitched.complete),
            Err(_) => (Vec::new(), true),
        };
        let history = match result.map(|stitched| stitched.history) {
            // Nobody is told twice what a log that lives on under another epoch has kept.
            Ok(history) if !respond => history.unseen_by(from.as_ref()),
            Ok(history) => history,
            Err(_) if !respond => {
                // The client was told long ago that it follows the room: that stays so, as soon as the log can be read.
                let from = from.clone();
                if let Some(from) = from {
                    self.retries.push((now.mono + RETRY_MS, room.clone(), from));
                }
                return;
            }
            Err(mut failure) => {
                self.subscriptions.remove(room);
                self.forget(room.clone());
                let details = failure.details.take().unwrap_or_else(|| serde_json::json!({}));
                return self.fail(stamp, &failure.with_details(merged(details, room)));
            }
        };
        let overflowed = *overflowed;
        let gate = std::mem::take(gate);
        let start = match history.messages.first() {
            Some(first) if !respond => first.seq - 1,
            _ => history.position.seq,
        };
        // From here on the table has it.
        let carried = std::mem::take(&mut subscription.carried);
        let table = (subscription.delivery == Delivery::Latest)
            .then(|| Box::new(Latest::new(subscription.min_interval_ms, start, carried)));
        let position = Position { epoch: history.position.epoch.clone(), seq: start };
        subscription.state = State::Live { position: position.clone(), table, scheduled: false };
        let recovered = subscription.recover && history.complete;
        if respond {
            let fields = subscription.fields.clone();
            let mut data = actions::history_data(room, &history, now.utc, Some(recovered), fields.as_ref());
            if subscription.backfill {
                actions::put_backfill(&mut data, room, &older, complete, now.utc, fields.as_ref());
            }
            if subscription.recover {
                self.occurrences.push(Occurrence::Recovered { complete: recovered });
            }
            self.counters.notifications_out += (older.len() + history.messages.len()) as u64;
            let change = self.subscribed_change(room);
            if let Some(at) = self.subscriptions.get(room).map(|held| held.slot_position()) {
                self.began(at);
            }
            self.respond_raw(stamp, &data, change);
        } else {
            if !recovered {
                self.resync(now, room, &position);
            }
            let mut start = position;
            for part in batch::parts(history.messages) {
                let batch = Arc::new(Batch::new(room.clone(), start, part, now.utc));
                self.deliver(now, &batch);
                start = batch.end();
            }
        }
        if overflowed {
            return self.catch_up(room, history.position);
        }
        // What came before the log's present life began is older than the history.
        let older = |batch: &Arc<Batch>| batch.start().epoch != history.position.epoch;
        for batch in gate.into_iter().skip_while(older) {
            self.deliver(now, &batch);
        }
    }

    /// More came while the history was read than the gate holds: reads what came since, as often as it takes.
    fn catch_up(&mut self, room: &RoomName, from: Position) {
        let Some(subscription) = self.subscriptions.get_mut(room) else { return };
        subscription.recover = true;
        let gated = State::gated(Some(from.clone()));
        let fields = subscription.fields.clone();
        let (slot, encoding) = (subscription.slot, subscription.encoding(self.wire));
        if let State::Live { table: Some(table), .. } = std::mem::replace(&mut subscription.state, gated) {
            self.flush(room, slot, *table, fields.as_ref(), encoding);
        }
        self.unschedule(room);
        self.catch_up_from(room.clone(), from);
    }

    /// Asks for what came after a position, to be delivered as live messages.
    pub(super) fn catch_up_from(&mut self, room: RoomName, from: Position) {
        let purpose = Purpose::Subscribe { room: room.clone(), respond: false };
        let waiting = Waiting {
            request_id: "".into(),
            trace_id: None,
            purpose,
            number: None,
            answer: Answer::default(),
        };
        let command = Command::Subscribe { room: room.clone(), replay: Replay::After(from), backfill: None };
        let ticket = self.command(waiting, command);
        if let Some(subscription) = self.subscriptions.get_mut(&room) {
            subscription.await_reply(ticket);
        }
    }

    /// Queues all that a conflation table holds.
    fn flush(
        &mut self,
        room: &RoomName,
        slot: u32,
        mut table: Latest,
        fields: Option<&Fields>,
        encoding: Encoding,
    ) {
        while let Next::Send { message, conflated, .. } = table.poll(u64::MAX) {
            let frame = self.conflated(message.frame(encoding, fields), conflated);
            // It goes out before its time.
            let mark = message.mark().untimed();
            let position = SlotPosition { slot, seq: table.sent_seq(), carried: table.carried() };
            self.push_live(room, frame, mark, Some(position), None);
        }
    }

    /// What a gateway has to know of a subscription.
    pub(super) fn subscribed_change(&self, room: &RoomName) -> Option<Change> {
        let subscription = self.subscriptions.get(room).filter(|_| self.wire.linked)?;
        Some(Change::Subscribed(Box::new(subscription.snapshot(room)?)))
    }

    /// Queues what is new in a batch; tells the client first if something before it is missing.
    fn deliver(&mut self, now: Now, batch: &Arc<Batch>) {
        let Some(subscription) = self.subscriptions.get_mut(batch.room()) else { return };
        let State::Live { position, table, .. } = &mut subscription.state else { return };
        let start = batch.start().clone();
        let same = position.epoch == start.epoch;
        if same && batch.end().seq <= position.seq {
            return;
        }
        let seen = if same { position.seq.saturating_sub(start.seq) as usize } else { 0 };
        let gap = !same || start.seq > position.seq;
        *position = batch.end();
        if gap {
            let old = table.as_mut().map(|table| {
                std::mem::replace(&mut **table, Latest::new(subscription.min_interval_ms, start.seq, 0))
            });
            let (slot, fields) = (subscription.slot, subscription.fields.clone());
            let encoding = subscription.encoding(self.wire);
            // The last values of the log's old life still go out, before the client hears of the new one.
            if let Some(old) = old {
                self.flush(batch.room(), slot, old, fields.as_ref(), encoding);
            }
            self.resync(now, batch.room(), &start);
        }
        if seen < batch.len() {
            self.queue(batch, seen);
        }
    }

    /// Queues the messages from an index on: for `all` as frames, for `latest` in the table.
    fn queue(&mut self, batch: &Arc<Batch>, seen: usize) {
        let Some(subscription) = self.subscriptions.get_mut(batch.room()) else { return };
        let waiting = if let State::Live { table: Some(table), scheduled, .. } = &mut subscription.state {
            for message in &batch.messages()[seen..] {
                table.push(message, self.clock);
            }
            let (bytes, is_new) = (table.bytes(), !std::mem::replace(scheduled, true));
            if is_new {
                self.schedule(batch.room().clone());
            }
            bytes
        } else {
            self.counters.notifications_out += (batch.len() - seen) as u64;
            let (slot, fields) = (subscription.slot, subscription.fields.clone());
            let encoding = subscription.encoding(self.wire);
            // A Socket.IO session does not hear of itself.
            let own = |message: &Arc<Prepared>| message.message().key.as_deref() == Some(&*self.id);
            let tells_own = self.face.is_some() && batch.messages().iter().any(own);
            let at = |seq| Some(SlotPosition { slot, seq, carried: 0 });
            // Who wants only so much a second is sent messages one by one, so that rooms can take turns.
            if fields.is_none() && seen == 0 && !tells_own && self.shaper.is_none() {
                let bytes = whole(batch, encoding, self.wire.batch);
                self.push_live(batch.room(), bytes, batch.mark(0), at(batch.end().seq), None);
            } else {
                for message in &batch.messages()[seen..] {
                    let own = tells_own && message.message().key.as_deref() == Some(&*self.id);
                    let frame = if own { Bytes::new() } else { message.frame(encoding, fields.as_ref()) };
                    let mark = if own { Mark::default() } else { message.mark() };
                    self.push_live(batch.room(), frame, mark, at(message.message().seq), None);
                }
            }
            self.out.live_bytes() + self.shaper.as_ref().map_or(0, |shaper| shaper.bytes())
        };
        if waiting > self.policy.max_queue_bytes || self.stale_at().is_some_and(|at| at <= self.clock) {
            self.close(CloseCode::SlowConsumer);
        }
    }

    /// Tells the client that messages before this position are lost to it.
    fn resync(&mut self, now: Now, room: &RoomName, to: &Position) {
        self.release(room);
        let frame = self.notify(room.as_str(), "resync", to.seq, now.utc, to);
        if let Some(slot) = self.subscriptions.get(room).map(|held| held.slot()) {
            self.restarted(SlotPosition { slot, seq: to.seq, carried: 0 });
        }
        let change = self.subscribed_change(room).map(|change| match change {
            Change::Subscribed(held) => Change::Subscribed(Box::new(SubscriptionSnapshot {
                position: to.clone(),
                carried: 0,
                ..*held
            })),
            other => other,
        });
        self.occurrences.push(Occurrence::Resync);
        self.quality.dropped(now.mono);
        self.push(frame, Kind::Live(Mark::default()), None, change);
    }
}

fn whole(batch: &Batch, encoding: Encoding, array: bool) -> Bytes {
    if array { batch.array(encoding) } else { batch.joined(encoding) }
}

fn merged(mut details: serde_json::Value, room: &RoomName) -> serde_json::Value {
    if let Some(object) = details.as_object_mut() {
        object.insert("room".into(), room.as_str().into());
    }
    details
}
