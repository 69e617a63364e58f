//! The gateway's vitals, and what it tells of sessions that went to another node.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tickmesh_cluster::pulse::Measure;
use tickmesh_edge::metrics::{Usage, process};
use tickmesh_protocol::vitals::{GatewayVitals, Kind, Moved, Pauses, Vitals};

use crate::api::not_ready;
use crate::metrics::{Cause, Pause};
use crate::server::Shared;

/// Looks, of a second each, over which pauses are told.
const LOOKS: usize = 10;

/// What stays the same, and what happened lately.
pub(crate) struct Meter {
    shared: Arc<Shared>,
    address: String,
    zone: String,
    started_at: u64,
    usage: Usage,
    looked: Instant,
    /// Pauses of the last looks, the newest last.
    pauses: VecDeque<Vec<Pause>>,
    /// Those that nobody was told of as an event yet.
    untold: Vec<Pause>,
}

impl Meter {
    pub(crate) fn new(shared: Arc<Shared>, address: String, zone: String, started_at: u64) -> Self {
        Self {
            shared,
            address,
            zone,
            started_at,
            usage: Usage::new(),
            looked: Instant::now(),
            pauses: VecDeque::new(),
            untold: Vec::new(),
        }
    }

    fn gateway(&mut self) -> GatewayVitals {
        let seconds = self.looked.elapsed().as_secs_f64().max(0.1);
        self.looked = Instant::now();
        let (moves, takeovers, new) = self.shared.metrics.take_pauses();
        let rate = |count: u64| (count as f64 / seconds * 10.0).round() / 10.0;
        self.untold.extend(&new);
        if self.pauses.len() >= LOOKS {
            self.pauses.pop_front();
        }
        self.pauses.push_back(new);
        GatewayVitals {
            clients: self.shared.connections.open() as u64,
            links: self.shared.nodes.links(),
            nodes_known: self.shared.nodes.known(),
            unreachable: self.shared.nodes.unreachable(),
            moves_per_s: rate(moves),
            takeovers_per_s: rate(takeovers),
            pause_ms: pauses(self.pauses.iter().flatten()),
        }
    }
}

fn pauses<'a>(all: impl Iterator<Item = &'a Pause>) -> Pauses {
    Pauses::of(all.map(|pause| f64::from(pause.ms)).collect())
}

impl Measure for Meter {
    fn vitals(&mut self, now: u64) -> Vitals {
        let (cpu_percent, memory_bytes) = self.usage.look();
        let gateway = self.gateway();
        let shared = &self.shared;
        Vitals {
            id: shared.id.clone(),
            kind: Kind::Gateway,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            zone: self.zone.clone(),
            address: self.address.clone(),
            run: shared.run,
            process: process(),
            started_at: self.started_at,
            at: now,
            draining: shared.connections.draining(),
            ready: not_ready(shared).is_none(),
            connections: shared.connections.open() as u64,
            cpu_percent,
            memory_bytes,
            memory_limit_bytes: shared.memory.limit(),
            memory_level: shared.memory.level().name().to_owned(),
            queue_delay_ms: 0.0,
            quality: 100.0,
            node: None,
            gateway: Some(gateway),
        }
    }

    fn moved(&mut self) -> Option<Moved> {
        let cause = self.untold.first()?.cause;
        // One event a second: what moved for the other reason is told with the next.
        let (told, untold) =
            std::mem::take(&mut self.untold).into_iter().partition(|pause| pause.cause == cause);
        self.untold = untold;
        Some(Moved {
            gateway: self.shared.id.clone(),
            cause: if cause == Cause::Move { "move" } else { "takeover" }.to_owned(),
            sessions: Vec::len(&told) as u64,
            pause_ms: pauses(told.iter()),
        })
    }
}
