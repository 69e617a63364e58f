//! The counters as the node's vitals take them: sums over all threads, to be told apart by two looks.

use tickmesh_edge::metrics::{Distribution, LATENCY, SCORE};
use tickmesh_protocol::close::CloseCode;

use super::{Cause, Counter, Metrics};

/// What was counted since the start, and what there is now.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) sessions: u64,
    pub(crate) subscriptions: u64,
    pub(crate) published: u64,
    pub(crate) delivered: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) received: u64,
    pub(crate) conflated: u64,
    pub(crate) errors: u64,
    pub(crate) refused: u64,
    pub(crate) slow: u64,
    pub(crate) resyncs: u64,
    /// The longest of all threads, in microseconds.
    pub(crate) flush_window: u64,
}

impl Metrics {
    /// All of them now.
    pub(crate) fn totals(&self) -> Totals {
        let slow = Cause { cause: CloseCode::SlowConsumer.reason() };
        let mut totals = Totals {
            published: self.published(),
            delivered: self.deliveries.get(),
            errors: self.requests.failures(),
            refused: self.all_refused.get(),
            slow: self.ended.get_or_create(&slow).get(),
            ..Totals::default()
        };
        for one in self.workers.all() {
            totals.sessions += one.open.total();
            totals.subscriptions += one.subscriptions.get();
            totals.sent_bytes += one.sent_bytes.get();
            totals.received += one.received_messages.get();
            totals.conflated += one.conflated.get();
            totals.errors += one.errors.iter().map(super::Count::get).sum::<u64>();
            totals.resyncs += one.resyncs.get();
            totals.flush_window = totals.flush_window.max(one.flush_window.get());
        }
        totals
    }

    /// From messages' acceptance to their write, in the buckets of [`LATENCY`].
    pub(crate) fn latencies(&self) -> Vec<u64> {
        Distribution::counts(&LATENCY, self.workers.all().iter().map(|one| &one.publish_to_write))
    }

    /// Scores of connections, in the buckets of [`SCORE`].
    pub(crate) fn ratings(&self) -> Vec<u64> {
        Distribution::counts(&SCORE, self.workers.all().iter().map(|one| &one.ratings))
    }

    /// Of each class whose messages are recorded: how many were published here, and when the newest was accepted that came
    /// from the broker, in UTC milliseconds.
    pub(crate) fn recorded(&self) -> impl Iterator<Item = (u64, u64)> {
        let all = self.classes.iter().zip(&self.published).zip(&self.fanout.newest);
        all.filter(|((class, _), _)| class.record)
            .map(|((_, published), newest)| (Counter::get(published), newest.get()))
    }
}
