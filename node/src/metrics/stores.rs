//! What is read of the stores: whether they serve, how often they did, their connections, and what they hold in memory.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tickmesh_cluster::broker::memory::MemoryCluster;
use tickmesh_edge::metrics::Figures;
use tickmesh_store::{PoolStatus, Stores};

/// What may be in this process's memory: the rooms' logs, and what [`Stores::memory`] names.
const KEPT: [&str; 4] = ["logs", "ticks", "bars", "users"];

/// Reads them when it is asked.
pub(super) struct StoresCollector {
    pub(super) stores: Stores,
    /// Where they are in this process's memory.
    pub(super) logs: Option<Arc<MemoryCluster>>,
}

impl StoresCollector {
    /// Bytes that are held here of something, and that may be; 0 where it is elsewhere.
    fn bytes(&self, what: &str) -> (usize, usize) {
        let logs = self.logs.as_ref().filter(|_| what == "logs").map(|logs| logs.bytes());
        let store = self.stores.memory.iter().find(|(name, _)| *name == what).map(|(_, bytes)| bytes());
        logs.or(store).unwrap_or_default()
    }
}

impl fmt::Debug for StoresCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoresCollector")
    }
}

impl Collector for StoresCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let figures = &mut Figures(&mut encoder);
        let kept = KEPT.map(|what| ([("what", what)], self.bytes(what)));
        let held = kept.map(|(labels, (held, _))| (labels, held as u64));
        let text = "What is kept in this process's memory, in bytes; 0 where it is kept elsewhere";
        figures.gauges("store_memory_bytes", text, held)?;
        let most = kept.map(|(labels, (_, most))| (labels, most as u64));
        let text = "Bytes that it may take: beyond, the oldest is evicted";
        figures.gauges("store_memory_limit_bytes", text, most)?;
        let gone = self.logs.as_ref().map(|logs| logs.evicted()).unwrap_or_default();
        let gone = ["messages", "ids"].into_iter().zip(gone).map(|(what, count)| ([("what", what)], count));
        let text = "What was evicted from logs in memory before its time, because they took too many bytes";
        figures.counters("log_evicted", text, gone)?;
        let stores = self.stores.health();
        let up = stores.iter().map(|(name, health)| ([("store", *name)], u64::from(health.is_up())));
        figures.gauges("store_up", "1 while the store is prepared and not left alone", up)?;
        let pools = self.stores.pools.iter().flat_map(|(name, pool)| {
            let PoolStatus { size, available, waiting, max } = pool();
            [("open", size), ("idle", available), ("waiting", waiting), ("max", max)]
                .map(|(state, count)| ([("store", *name), ("state", state)], count as u64))
        });
        let text =
            "Connections of a store's pool: open, idle, the most there may be, and calls that wait for one";
        figures.gauges("store_connections", text, pools)?;
        let calls = stores.iter().flat_map(|(name, health)| {
            ["ok", "failed", "rejected"]
                .into_iter()
                .zip(health.calls())
                .map(|(outcome, count)| ([("store", *name), ("outcome", outcome)], count))
        });
        figures.counters("store_calls", "Calls to a store, by outcome", calls)?;
        let opened = stores.iter().map(|(name, health)| ([("store", *name)], health.opened()));
        figures.counters("store_breaker_opened", "Times that a store's breaker opened", opened)
    }
}
