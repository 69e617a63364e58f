//! The node's vitals, from its counters by difference between two looks.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tickmesh_cluster::pulse::Measure;
use tickmesh_edge::metrics::{LATENCY, Usage, process};
use tickmesh_protocol::vitals::{
    BusyRoom, Kind, NodeVitals, P95, ROOMS, Spread, StoreVitals, Vitals, Window,
};
use tickmesh_store::{PoolStatus, Stores};

use crate::load::QueueDelay;
use crate::metrics::Totals;
use crate::worker::Shared;

/// Looks, of a second each, over which latencies and scores are counted.
const LATENCY_LOOKS: usize = 10;
const QUALITY_LOOKS: usize = 60;
/// Rooms that are told.
const TOP_ROOMS: usize = 20;

/// What stays the same, and what was there at the last look.
pub(crate) struct Meter {
    shared: Arc<Shared>,
    delay: Arc<QueueDelay>,
    address: String,
    zone: String,
    usage: Usage,
    last: Option<(Instant, Totals)>,
    latencies: Window,
    ratings: Window,
    /// Messages published here into recorded rooms, and when it was seen last that there were more.
    recorded: u64,
    recorded_at: u64,
}

impl Meter {
    pub(crate) fn new(shared: Arc<Shared>, delay: Arc<QueueDelay>, address: String, zone: String) -> Self {
        Self {
            shared,
            delay,
            address,
            zone,
            usage: Usage::new(),
            last: None,
            latencies: Window::new(LATENCY_LOOKS),
            ratings: Window::new(QUALITY_LOOKS),
            recorded: 0,
            recorded_at: 0,
        }
    }

    fn node(&mut self, now: u64) -> NodeVitals {
        let metrics = self.shared.metrics.clone();
        let (at, totals) = (Instant::now(), metrics.totals());
        let (before, seconds) = match &self.last {
            Some((before_at, before)) => (*before, at.duration_since(*before_at).as_secs_f64().max(0.001)),
            None => (totals, 1.0),
        };
        self.last = Some((at, totals));
        let rate = |of: fn(&Totals) -> u64| {
            (of(&totals).saturating_sub(of(&before)) as f64 / seconds * 10.0).round() / 10.0
        };
        let latency_ms = Spread::of(LATENCY.bounds, &self.latencies.look(metrics.latencies()), 1_000.0);
        let mut quality_counts = [0; 10];
        for (count, rated) in quality_counts.iter_mut().zip(self.ratings.look(metrics.ratings())) {
            *count = rated;
        }
        NodeVitals {
            sessions: totals.sessions,
            subscriptions: totals.subscriptions,
            rooms: metrics.fanout.rooms.get(),
            published_per_s: rate(|totals| totals.published),
            delivered_per_s: rate(|totals| totals.delivered),
            sent_bytes_per_s: rate(|totals| totals.sent_bytes),
            received_per_s: rate(|totals| totals.received),
            conflated_per_s: rate(|totals| totals.conflated),
            errors_per_s: rate(|totals| totals.errors),
            refused_per_s: rate(|totals| totals.refused),
            slow_disconnects_per_s: rate(|totals| totals.slow),
            resyncs_per_s: rate(|totals| totals.resyncs),
            latency_ms,
            market_latency_ms: P95 { p95: latency_ms.p95 },
            flush_window_ms: totals.flush_window as f64 / 1_000.0,
            quality_counts,
            redis_up: self.shared.redis.as_ref().map(|redis| redis.is_up()),
            stores: stores(&self.shared.stores),
            market_newest_at: self.market_newest_at(now),
            top_rooms: self.top_rooms(),
        }
    }

    /// What comes from the broker says itself when it was accepted; what is published here is seen within a second.
    fn market_newest_at(&mut self, now: u64) -> u64 {
        let (mut published, mut newest) = (0, 0);
        for (count, at) in self.shared.metrics.recorded() {
            published += count;
            newest = newest.max(at);
        }
        if published > self.recorded {
            (self.recorded, self.recorded_at) = (published, now);
        }
        newest.max(self.recorded_at)
    }

    fn top_rooms(&self) -> Vec<BusyRoom> {
        let busy = std::mem::take(&mut *self.shared.metrics.fanout.busy.lock());
        let seconds = busy.within.as_secs_f64().max(0.1);
        let subscribers = self.shared.peers.subscribers_here(busy.rooms.iter().map(|(room, _)| room));
        let mut rooms: Vec<_> = busy
            .rooms
            .into_iter()
            .zip(subscribers)
            .filter(|((room, _), subscribers)| *subscribers > 0 && !ROOMS.contains(&room.as_str()))
            .map(|((room, came), subscribers)| (came * subscribers, came, subscribers, room))
            .collect();
        if rooms.len() > TOP_ROOMS {
            rooms.select_nth_unstable_by_key(TOP_ROOMS, |(all, ..)| Reverse(*all));
            rooms.truncate(TOP_ROOMS);
        }
        rooms.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.3.cmp(&b.3)));
        let told =
            |(_, came, subscribers, room): (u64, u64, u64, tickmesh_protocol::room::RoomName)| BusyRoom {
                room: room.as_str().to_owned(),
                messages_per_s: (came as f64 / seconds * 10.0).round() / 10.0,
                subscribers,
            };
        rooms.into_iter().map(told).collect()
    }
}

/// One store each, though it may be reached in more than one way.
fn stores(stores: &Stores) -> BTreeMap<String, StoreVitals> {
    let mut all = BTreeMap::<String, StoreVitals>::new();
    for (name, health) in stores.health() {
        let name = if name == "series_reads" { "series" } else { name };
        let up = health.is_up();
        all.entry(name.to_owned())
            .and_modify(|store| store.up &= up)
            .or_insert(StoreVitals { up, ..StoreVitals::default() });
    }
    for (name, pool) in &stores.pools {
        let PoolStatus { size, available, max, .. } = pool();
        if let Some(store) = all.get_mut(*name) {
            (store.connections, store.max) = (size as u64, max as u64);
            store.in_use = size.saturating_sub(available) as u64;
        }
    }
    all
}

impl Measure for Meter {
    fn vitals(&mut self, now: u64) -> Vitals {
        let (cpu_percent, memory_bytes) = self.usage.look();
        let node = self.node(now);
        let shared = &self.shared;
        Vitals {
            id: shared.policy.node_id.clone(),
            kind: Kind::Node,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            zone: self.zone.clone(),
            address: self.address.clone(),
            run: shared.run,
            process: process(),
            started_at: shared.started_at,
            at: now,
            draining: shared.connections.draining(),
            ready: shared.not_ready().is_none(),
            connections: shared.connections.open() as u64,
            cpu_percent,
            memory_bytes,
            memory_limit_bytes: shared.memory.limit(),
            memory_level: shared.memory.level().name().to_owned(),
            queue_delay_ms: (self.delay.take_for_vitals() * 10.0).round() / 10.0,
            quality: (shared.metrics.quality().unwrap_or(100.0) * 10.0).round() / 10.0,
            node: Some(node),
            gateway: None,
        }
    }
}
