//! What is read of the stores: whether they serve, how often they did, and their connections.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tickmesh_edge::metrics::Figures;
use tickmesh_store::{PoolStatus, Stores};

/// Reads them when it is asked.
pub(super) struct StoresCollector(pub(super) Stores);

impl fmt::Debug for StoresCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoresCollector")
    }
}

impl Collector for StoresCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let figures = &mut Figures(&mut encoder);
        let stores = self.0.health();
        let up = stores.iter().map(|(name, health)| ([("store", *name)], u64::from(health.is_up())));
        figures.gauges("store_up", "1 while the store is prepared and not left alone", up)?;
        let pools = self.0.pools.iter().flat_map(|(name, pool)| {
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
