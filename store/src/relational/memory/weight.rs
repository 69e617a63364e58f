//! What users' data takes in memory, by what it is made of; see [`tickmesh_cluster::heap`].

use tickmesh_protocol::market::{AlertSpec, Symbol};
use tickmesh_protocol::position::Position;

use super::super::{Alert, ApiKey, AuditEvent};
use super::KeptHit;
use tickmesh_cluster::heap::{chunk, hash_entry, shared_text, tree_entry};

/// A sum of bytes that must not be more than a part of the whole.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Budget {
    pub(super) held: usize,
    pub(super) most: usize,
}

impl Budget {
    pub(super) fn of(most: usize) -> Self {
        Self { held: 0, most }
    }

    /// Whether so many more fit.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.held.saturating_add(more) <= self.most
    }

    pub(super) fn is_over(&self) -> bool {
        self.held > self.most
    }

    pub(super) fn add(&mut self, bytes: usize) {
        self.held += bytes;
    }

    pub(super) fn take(&mut self, bytes: usize) {
        self.held -= bytes;
    }
}

pub(super) fn key(key: &ApiKey) -> usize {
    let patterns = key.grants.subscribe.iter().chain(&key.grants.publish);
    let patterns: usize = patterns.map(|pattern| 24 + chunk(pattern.0.len())).sum();
    tree_entry::<(String, ApiKey)>() + 2 * chunk(key.id.len()) + chunk(key.user_id.len()) + patterns + 2 * 24
}

pub(super) fn revoked(jti: &str) -> usize {
    tree_entry::<(String, u64)>() + chunk(jti.len())
}

/// A list with so many places.
pub(super) fn watchlist(user_id: &str, places: usize) -> usize {
    hash_entry::<(String, Vec<Symbol>)>() + chunk(user_id.len()) + chunk(places * size_of::<Symbol>())
}

pub(super) fn symbol(symbol: &Symbol) -> usize {
    shared_text(symbol.as_str().len())
}

fn spec(spec: &AlertSpec) -> usize {
    symbol(&spec.symbol) + chunk(spec.field.len())
}

fn position(position: &Position) -> usize {
    shared_text(position.epoch.as_str().len())
}

pub(super) fn alert(alert: &Alert) -> usize {
    tree_entry::<(u64, Alert)>()
        + chunk(alert.user_id.len())
        + spec(&alert.spec)
        + alert.state.at.as_ref().map_or(0, position)
}

pub(super) fn hit(kept: &KeptHit) -> usize {
    let hit = &kept.hit;
    // It is remembered a second time that it fired.
    tree_entry::<(u64, KeptHit)>()
        + hash_entry::<super::Fired>()
        + chunk(hit.user_id.len())
        + spec(&hit.spec)
        + position(&hit.position)
}

pub(super) fn event(event: &AuditEvent) -> usize {
    let AuditEvent { at: _, event, session_id, user_id, node_id, remote, reason } = event;
    let texts = [event, session_id, user_id, node_id, remote, reason];
    tree_entry::<((u64, u64), AuditEvent)>()
        + texts.into_iter().map(|text| chunk(text.capacity())).sum::<usize>()
}
