//! What a worker thread counts of its sessions.
//!
//! Each thread has one of these to itself, so that nothing that happens for every message or write is shared between
//! threads; they are summed when somebody asks.

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;
use tickmesh_edge::metrics::{BATCH, ByWay, Count, DELAY, Distribution, Figures, LATENCY, PROTOCOLS, SCORE};
use tickmesh_protocol::error::ErrorCode;
use tickmesh_protocol::outbox::Mark;
use tickmesh_protocol::pace::Reason;
use tickmesh_protocol::session::{Counters, Now, Occurrence, State};

use super::Workers;

/// The counters of one thread.
#[derive(Debug)]
// Two threads' counters never share a cache line, nor a pair that is fetched together.
#[repr(align(128))]
pub struct Traffic {
    /// Sessions begun.
    pub sessions: ByWay,
    /// Sessions that are open.
    pub open: ByWay,
    /// Sessions that are open, by how they do.
    pub states: [Count; State::ALL.len()],
    /// Rooms followed by sessions.
    pub subscriptions: Count,
    pub(super) received_messages: Count,
    /// Bytes read.
    pub received_bytes: Count,
    sent_messages: Count,
    /// Bytes written.
    pub sent_bytes: Count,
    pub(super) conflated: Count,
    pub(super) errors: [Count; ErrorCode::ALL.len()],
    /// By protocol, then whether complete.
    recoveries: [[Count; 2]; 2],
    pub(super) resyncs: Count,
    /// Connections that are open and were measured, and the sum of their scores.
    pub rated: Count,
    /// See `rated`.
    pub quality: Count,
    pub(super) ratings: Distribution,
    write_messages: Distribution,
    pub(super) publish_to_write: Distribution,
    queue_delay: Distribution,
    /// The flush window, in microseconds.
    pub(super) flush_window: Count,
    flush_changes: [Count; Reason::ALL.len()],
    /// What the window is decided by, in thousandths.
    load: Count,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            sessions: ByWay::default(),
            open: ByWay::default(),
            states: Default::default(),
            subscriptions: Count::default(),
            received_messages: Count::default(),
            received_bytes: Count::default(),
            sent_messages: Count::default(),
            sent_bytes: Count::default(),
            conflated: Count::default(),
            errors: Default::default(),
            recoveries: Default::default(),
            resyncs: Count::default(),
            rated: Count::default(),
            quality: Count::default(),
            ratings: Distribution::new(&SCORE),
            write_messages: Distribution::new(&BATCH),
            publish_to_write: Distribution::new(&LATENCY),
            queue_delay: Distribution::new(&DELAY),
            flush_window: Count::default(),
            flush_changes: Default::default(),
            load: Count::default(),
        }
    }
}

impl Traffic {
    pub(super) fn delivered(&self) -> u64 {
        self.sent_messages.get()
    }

    /// Counts what a session did since it was looked at last.
    pub(crate) fn did(&self, before: Counters, now: Counters) {
        self.received_messages.add(now.messages_in - before.messages_in);
        self.sent_messages.add(now.notifications_out - before.notifications_out);
        self.conflated.add(now.conflated - before.conflated);
    }

    pub(crate) fn happened(&self, socketio: bool, what: Occurrence) {
        match what {
            Occurrence::Failed(code) => self.errors[code as usize].add(1),
            Occurrence::Recovered { complete } => {
                self.recoveries[usize::from(socketio)][usize::from(complete)].add(1);
            }
            Occurrence::Resync => self.resyncs.add(1),
            Occurrence::Rated(score) => self.ratings.observe(score.into(), 1),
        }
    }

    /// Counts live messages that were written together with those of other marks; `micros` as for
    /// [`Batch::handed`](tickmesh_protocol::batch::Batch::handed).
    pub(crate) fn wrote(&self, mark: Mark, now: Now, micros: u64) {
        let messages = u64::from(mark.messages);
        if mark.accepted_at > 0 {
            self.publish_to_write.observe(now.utc.saturating_sub(mark.accepted_at) * 1_000, messages);
        }
        if mark.handed_at > 0 {
            self.queue_delay.observe(micros.saturating_sub(mark.handed_at), messages);
        }
    }

    /// Notes a decision on the flush window.
    pub(crate) fn paced(&self, window: Duration, load: f64, reason: Option<Reason>) {
        self.flush_window.set(window.as_micros() as u64);
        self.load.set((load * 1_000.0) as u64);
        if let Some(reason) = reason {
            self.flush_changes[reason as usize].add(1);
        }
    }

    /// Counts a write with so many live messages.
    pub(crate) fn write_of(&self, messages: u64) {
        if messages > 0 {
            self.write_messages.observe(messages, 1);
        }
    }
}

/// All threads together.
#[derive(Debug)]
pub(super) struct AllTraffic(pub(super) Workers);

impl Collector for AllTraffic {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let all = self.0.all();
        let sum =
            |of: &dyn Fn(&Traffic) -> &Count| all.iter().map(|one| of(one).get()).fold(0, u64::wrapping_add);
        let figures = &mut Figures(&mut encoder);
        let open = ByWay::series(all.iter().map(|one| &one.open), true);
        figures.gauges("sessions_open", "Sessions that are open", open)?;
        let begun = ByWay::series(all.iter().map(|one| &one.sessions), true);
        figures.counters("sessions", "Sessions begun, those that moved here included", begun)?;
        let states =
            State::ALL.map(|state| ([("state", state.name())], sum(&|one| &one.states[state as usize])));
        figures.gauges("session_states", "Sessions that are open, by how they do", states)?;
        let text = "Rooms followed by sessions, summed over the sessions";
        figures.gauge("subscriptions", text, sum(&|one| &one.subscriptions))?;
        let codes = ErrorCode::ALL
            .iter()
            .map(|code| ([("code", code.as_str())], sum(&|one| &one.errors[*code as usize])));
        figures.counters("request_errors", "Requests of sessions answered with an error", codes)?;
        let recoveries = PROTOCOLS.into_iter().enumerate().flat_map(|(protocol, name)| {
            ["incomplete", "complete"].into_iter().enumerate().map(move |(complete, outcome)| {
                ([("protocol", name), ("outcome", outcome)], protocol, complete)
            })
        });
        let recoveries = recoveries
            .map(|(labels, protocol, complete)| (labels, sum(&|one| &one.recoveries[protocol][complete])));
        let text = "Clients that came back and asked for what they missed";
        figures.counters("recoveries", text, recoveries)?;
        let text = "Subscriptions told by resync that messages are lost to them";
        figures.counter("resyncs", text, sum(&|one| &one.resyncs))?;
        figures.counter(
            "received_messages",
            "Messages that clients sent",
            sum(&|one| &one.received_messages),
        )?;
        let text = "Bytes read from clients and gateways";
        figures.bytes("received", text, sum(&|one| &one.received_bytes))?;
        let text = "Messages queued or written to clients, those of histories included";
        figures.counter("sent_messages", text, sum(&|one| &one.sent_messages))?;
        let text = "Bytes written to clients and gateways";
        figures.bytes("sent", text, sum(&|one| &one.sent_bytes))?;
        let text = "Messages that a newer one replaced, for subscribers to the latest value";
        figures.counter("conflated_messages", text, sum(&|one| &one.conflated))?;
        let text = "Scores of connections, 0 to 100, each time that one was measured by a ping";
        figures.histogram("session_quality", text, None, all.iter().map(|one| &one.ratings), &SCORE)?;
        let text = "Live messages in one write to a socket";
        figures.histogram("write_messages", text, None, all.iter().map(|one| &one.write_messages), &BATCH)?;
        let text = "From a message's acceptance to its write to a socket";
        let latencies = all.iter().map(|one| &one.publish_to_write);
        figures.histogram("publish_to_write", text, Some(&Unit::Seconds), latencies, &LATENCY)?;
        let text = "From a message's fan-out on this node to its write to a socket";
        let delays = all.iter().map(|one| &one.queue_delay);
        figures.histogram("queue_delay", text, Some(&Unit::Seconds), delays, &DELAY)?;
        let most = |of: fn(&Traffic) -> &Count| all.iter().map(|one| of(one).get()).max().unwrap_or(0) as f64;
        let text =
            "How long messages wait for others that leave with them, on the thread where that is longest";
        figures.seconds("flush_window", text, most(|one| &one.flush_window) / 1e6)?;
        let changes = Reason::ALL
            .map(|reason| ([("reason", reason.name())], sum(&|one| &one.flush_changes[reason as usize])));
        figures.counters("flush_window_changes", "Changes of the flush windows, by reason", changes)?;
        let text = "Part of the last time in which a worker thread ran or wanted to, or the process used its CPU: of the busiest";
        figures.ratio("worker_load", text, most(|one| &one.load) / 1e3)
    }
}
