//! What is counted of recorded rooms.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tickmesh_edge::metrics::{Distribution, Figures, Scale};
use tickmesh_market::bars::Rejected;

use super::Cause;

/// Messages in one write to the time-series store.
static WRITES: Scale = Scale { bounds: &[1, 4, 16, 64, 256, 1_024, 4_096, 16_384], per_unit: 1 };

/// What is counted of recorded rooms and of the stores.
#[derive(Debug)]
pub struct MarketMetrics {
    /// Recorded rooms that are kept here.
    pub rooms: Gauge,
    /// Messages that wait for the time-series store.
    pub waiting: Gauge,
    /// Messages in one write to it, counted by the thread that writes.
    pub writes: Distribution,
    /// Messages written to it.
    pub recorded: Counter,
    /// Messages that it could not take.
    pub refused: Counter,
    /// Messages that were gone from the log before they were written.
    pub lost: Counter,
    /// Messages that were gone from the log and the store before they were looked at for bars.
    pub bar_ticks_lost: Counter,
    /// Messages that were gone from the log before alerts were held against them.
    pub alert_ticks_lost: Counter,
    /// Ticks that are not in bars, by cause.
    rejected: Family<Cause, Counter>,
    /// Bars written.
    pub bars: Counter,
    /// Bars that were not written because too many waited.
    pub bars_dropped: Counter,
    /// Closed bars that were not published because too many waited.
    pub bars_unpublished: Counter,
    /// Alerts that fired.
    pub hits: Counter,
    /// Alerts that fired and could not be kept because too many waited.
    pub hits_lost: Counter,
    /// Events of sessions that are not in the audit.
    pub audit_dropped: Counter,
}

impl Default for MarketMetrics {
    fn default() -> Self {
        let rejected = Family::default();
        for cause in Rejected::ALL {
            let _: &Counter = &rejected.get_or_create(&Cause { cause: cause.as_str() });
        }
        Self {
            rooms: Gauge::default(),
            waiting: Gauge::default(),
            writes: Distribution::new(&WRITES),
            recorded: Counter::default(),
            refused: Counter::default(),
            lost: Counter::default(),
            bar_ticks_lost: Counter::default(),
            alert_ticks_lost: Counter::default(),
            rejected,
            bars: Counter::default(),
            bars_dropped: Counter::default(),
            bars_unpublished: Counter::default(),
            hits: Counter::default(),
            hits_lost: Counter::default(),
            audit_dropped: Counter::default(),
        }
    }
}

impl MarketMetrics {
    /// Counts a tick that is not in bars.
    pub fn rejected(&self, cause: &'static str) {
        self.rejected.get_or_create(&Cause { cause }).inc();
    }

    pub(super) fn register(self: &Arc<Self>, r: &mut Registry) {
        r.register("recorder_rooms", "Recorded rooms that are kept here", self.rooms.clone());
        let text = "Messages that wait for the time-series store";
        r.register("recorder_waiting", text, self.waiting.clone());
        r.register("recorded_messages", "Messages written to the time-series store", self.recorded.clone());
        let text = "Messages that the time-series store could not take";
        r.register("recorder_refused", text, self.refused.clone());
        let text = "Messages that were gone from the log before they were written to the time-series store";
        r.register("recorder_lost", text, self.lost.clone());
        let text = "Messages that were gone before they were looked at for bars";
        r.register("bar_ticks_lost", text, self.bar_ticks_lost.clone());
        let text = "Messages that were gone before alerts were held against them";
        r.register("alert_ticks_lost", text, self.alert_ticks_lost.clone());
        r.register("bar_ticks_rejected", "Ticks that are not in bars, by cause", self.rejected.clone());
        r.register("bars_written", "Bars written to the time-series store", self.bars.clone());
        let text = "Bars that were not written because too many waited";
        r.register("bars_dropped", text, self.bars_dropped.clone());
        let text = "Closed bars that were not published because too many waited";
        r.register("bars_unpublished", text, self.bars_unpublished.clone());
        r.register("alert_hits", "Price alerts that fired", self.hits.clone());
        let text = "Price alerts that fired and could not be kept because too many waited";
        r.register("alert_hits_lost", text, self.hits_lost.clone());
        let text = "Beginnings and ends of sessions that are not in the audit";
        r.register("audit_dropped", text, self.audit_dropped.clone());
        r.register_collector(Box::new(Writes(self.clone())));
    }
}

#[derive(Debug)]
struct Writes(Arc<MarketMetrics>);

impl Collector for Writes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let text = "Messages in one write to the time-series store";
        let writes = std::iter::once(&self.0.writes);
        Figures(&mut encoder).histogram("recorder_batch_messages", text, None, writes, &WRITES)
    }
}
