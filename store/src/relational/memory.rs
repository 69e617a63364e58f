//! Users' data of a single process, gone with it: for development and tests.
//!
//! It keeps the newest [`MAX_AUDIT`] events of the audit; the rest has the bounds that its callers give (`most`). It must not
//! know whether anyone else keeps the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use tickmesh_protocol::market::{AlertSpec, Symbol};

use super::{
    ACKNOWLEDGED_MS, Alert, AlertState, Alerts, ApiKey, Audit, AuditEvent, Credentials, Hit, Hits,
    Relational, RevokedToken, Watchlists, rules,
};
use crate::StoreError;

/// Events that the audit keeps; older ones go when newer come.
pub const MAX_AUDIT: usize = 10_000;

/// Clones share the data.
#[derive(Debug, Clone, Default)]
pub struct MemoryRelational {
    data: Arc<Mutex<Data>>,
}

#[derive(Debug, Default)]
struct Data {
    keys: BTreeMap<String, ApiKey>,
    revoked: BTreeMap<String, u64>,
    watchlists: FxHashMap<String, Vec<Symbol>>,
    alerts: BTreeMap<u64, Alert>,
    newest_alert: u64,
    hits: BTreeMap<u64, KeptHit>,
    /// Alert, epoch and sequence number of all hits.
    fired: FxHashSet<(u64, String, u64)>,
    newest_hit: u64,
    /// In order of time, and of coming where that is the same.
    audit: BTreeMap<(u64, u64), AuditEvent>,
    newest_event: u64,
}

#[derive(Debug)]
struct KeptHit {
    hit: Hit,
    told: bool,
    /// UTC milliseconds.
    acknowledged: Option<u64>,
}

impl MemoryRelational {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Its ports.
    #[must_use]
    pub fn relational(&self) -> Relational {
        let this = Arc::new(self.clone());
        Relational {
            credentials: this.clone(),
            watchlists: this.clone(),
            alerts: this.clone(),
            hits: this.clone(),
            audit: this,
        }
    }
}

#[async_trait]
impl Credentials for MemoryRelational {
    async fn add_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        rules::key(key)?;
        self.data.lock().keys.entry(key.id.clone()).or_insert_with(|| key.clone());
        Ok(())
    }

    async fn remove_key(&self, id: &str) -> Result<bool, StoreError> {
        Ok(self.data.lock().keys.remove(id).is_some())
    }

    async fn keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        Ok(self.data.lock().keys.values().cloned().collect())
    }

    async fn revoke(&self, token: &RevokedToken) -> Result<(), StoreError> {
        rules::token(token)?;
        let mut data = self.data.lock();
        let expires_at = data.revoked.entry(token.jti.clone()).or_default();
        *expires_at = token.expires_at.max(*expires_at);
        Ok(())
    }

    async fn revoked(&self, now: u64) -> Result<Vec<RevokedToken>, StoreError> {
        let mut data = self.data.lock();
        data.revoked.retain(|_, expires_at| *expires_at > now);
        let listed = |(jti, at): (&String, &u64)| RevokedToken { jti: jti.clone(), expires_at: *at };
        Ok(data.revoked.iter().map(listed).collect())
    }
}

#[async_trait]
impl Watchlists for MemoryRelational {
    async fn list(&self, user_id: &str) -> Result<Vec<Symbol>, StoreError> {
        Ok(self.data.lock().watchlists.get(user_id).cloned().unwrap_or_default())
    }

    async fn add(&self, user_id: &str, symbol: &Symbol, most: usize) -> Result<bool, StoreError> {
        rules::user(user_id)?;
        let mut data = self.data.lock();
        let held = data.watchlists.get(user_id).map_or(&[][..], Vec::as_slice);
        if held.contains(symbol) {
            return Ok(true);
        }
        if held.len() >= most {
            return Ok(false);
        }
        data.watchlists.entry(user_id.to_owned()).or_default().push(symbol.clone());
        Ok(true)
    }

    async fn remove(&self, user_id: &str, symbol: &Symbol) -> Result<bool, StoreError> {
        let mut data = self.data.lock();
        let Some(held) = data.watchlists.get_mut(user_id) else { return Ok(false) };
        let before = held.len();
        held.retain(|one| one != symbol);
        let removed = held.len() < before;
        if held.is_empty() {
            data.watchlists.remove(user_id);
        }
        Ok(removed)
    }
}

#[async_trait]
impl Alerts for MemoryRelational {
    async fn create(
        &self,
        user_id: &str,
        spec: &AlertSpec,
        state: &AlertState,
        now: u64,
        most: usize,
    ) -> Result<Option<Alert>, StoreError> {
        rules::user(user_id)?;
        rules::spec(spec)?;
        rules::state(state)?;
        let mut data = self.data.lock();
        if data.alerts.values().filter(|alert| alert.user_id == user_id).count() >= most {
            return Ok(None);
        }
        data.newest_alert += 1;
        let alert = Alert {
            id: data.newest_alert,
            user_id: user_id.to_owned(),
            spec: spec.clone(),
            created_at: now,
            active: true,
            state: state.clone(),
        };
        data.alerts.insert(alert.id, alert.clone());
        Ok(Some(alert))
    }

    async fn delete(&self, user_id: &str, id: u64) -> Result<bool, StoreError> {
        let mut data = self.data.lock();
        if data.alerts.get(&id).is_none_or(|alert| alert.user_id != user_id) {
            return Ok(false);
        }
        data.alerts.remove(&id);
        data.hits.retain(|_, kept| kept.hit.alert_id != id);
        data.fired.retain(|(alert, ..)| *alert != id);
        Ok(true)
    }

    async fn of_user(&self, user_id: &str) -> Result<Vec<Alert>, StoreError> {
        let data = self.data.lock();
        Ok(data.alerts.values().filter(|alert| alert.user_id == user_id).cloned().collect())
    }

    async fn of_symbol(&self, symbol: &Symbol) -> Result<Vec<Alert>, StoreError> {
        let data = self.data.lock();
        let wanted = |alert: &&Alert| alert.active && alert.spec.symbol == *symbol;
        Ok(data.alerts.values().filter(wanted).cloned().collect())
    }

    async fn keep(&self, states: &[(u64, AlertState)]) -> Result<(), StoreError> {
        states.iter().try_for_each(|(_, state)| rules::state(state))?;
        let mut data = self.data.lock();
        for (id, state) in states {
            if let Some(alert) = data.alerts.get_mut(id)
                && rules::replaces(state, &alert.state)
            {
                alert.state = state.clone();
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Hits for MemoryRelational {
    async fn fire(&self, hits: &[(Hit, AlertState)]) -> Result<Vec<Hit>, StoreError> {
        for (hit, state) in hits {
            rules::hit(hit)?;
            rules::state(state)?;
        }
        let mut data = self.data.lock();
        let data = &mut *data;
        let mut new = Vec::new();
        for (hit, state) in hits {
            let alert = data.alerts.get_mut(&hit.alert_id).filter(|alert| alert.active);
            let Some(alert) = alert else { continue };
            if !data.fired.insert(fired(hit)) {
                continue;
            }
            if rules::replaces(state, &alert.state) {
                alert.state = state.clone();
            }
            alert.active = !alert.spec.once;
            data.newest_hit += 1;
            let hit = rules::hit_of(alert, hit, data.newest_hit);
            data.hits.insert(hit.hit_id, KeptHit { hit: hit.clone(), told: false, acknowledged: None });
            new.push(hit);
        }
        Ok(new)
    }

    async fn pending(&self, user_id: &str, most: usize) -> Result<Vec<Hit>, StoreError> {
        let data = self.data.lock();
        let wanted = |kept: &&KeptHit| kept.acknowledged.is_none() && kept.hit.user_id == user_id;
        let newest = data.hits.values().rev().filter(wanted).take(most);
        let mut hits: Vec<_> = newest.map(|kept| kept.hit.clone()).collect();
        hits.reverse();
        Ok(hits)
    }

    async fn acknowledge(&self, user_id: &str, hit_id: u64, now: u64) -> Result<bool, StoreError> {
        let mut data = self.data.lock();
        let data = &mut *data;
        data.hits.retain(|_, kept| {
            let old = kept.acknowledged.is_some_and(|at| at + ACKNOWLEDGED_MS <= now);
            let forgotten = old && kept.hit.user_id == user_id;
            if forgotten {
                data.fired.remove(&fired(&kept.hit));
            }
            !forgotten
        });
        let kept = data.hits.get_mut(&hit_id);
        let kept = kept.filter(|kept| kept.hit.user_id == user_id && kept.acknowledged.is_none());
        Ok(kept.map(|kept| kept.acknowledged = Some(now)).is_some())
    }

    async fn untold(&self, most: usize) -> Result<Vec<Hit>, StoreError> {
        let data = self.data.lock();
        let wanted = |kept: &&KeptHit| !kept.told && kept.acknowledged.is_none();
        Ok(data.hits.values().filter(wanted).take(most).map(|kept| kept.hit.clone()).collect())
    }

    async fn told(&self, hits: &[u64]) -> Result<(), StoreError> {
        let mut data = self.data.lock();
        for id in hits {
            if let Some(kept) = data.hits.get_mut(id) {
                kept.told = true;
            }
        }
        Ok(())
    }
}

/// What there is one hit of.
fn fired(hit: &Hit) -> (u64, String, u64) {
    (hit.alert_id, hit.position.epoch.as_str().to_owned(), hit.position.seq)
}

#[async_trait]
impl Audit for MemoryRelational {
    async fn record(&self, events: &[AuditEvent]) -> Result<(), StoreError> {
        let mut data = self.data.lock();
        for event in events {
            data.newest_event += 1;
            let place = (event.at, data.newest_event);
            data.audit.insert(place, rules::audit_event(event));
            if data.audit.len() > MAX_AUDIT {
                data.audit.pop_first();
            }
        }
        Ok(())
    }

    async fn list(&self, user_id: Option<&str>, limit: usize) -> Result<Vec<AuditEvent>, StoreError> {
        let user_id = user_id.map(rules::audit_text);
        let data = self.data.lock();
        let wanted = |event: &&AuditEvent| user_id.as_ref().is_none_or(|id| event.user_id == *id);
        Ok(data.audit.values().rev().filter(wanted).take(limit).cloned().collect())
    }

    async fn prune(&self, before: u64, most: usize) -> Result<u64, StoreError> {
        let mut data = self.data.lock();
        let mut pruned = 0;
        while pruned < most as u64
            && let Some(oldest) = data.audit.first_entry()
            && oldest.key().0 < before
        {
            oldest.remove();
            pruned += 1;
        }
        Ok(pruned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relational::suite;

    #[tokio::test]
    async fn conformance() {
        suite::run(&MemoryRelational::new().relational()).await;
    }

    #[tokio::test]
    async fn the_audit_is_bounded() {
        let memory = MemoryRelational::new();
        let event = |at| AuditEvent {
            at,
            event: "connected".into(),
            session_id: "s".into(),
            user_id: "u".into(),
            node_id: "n".into(),
            remote: "r".into(),
            reason: String::new(),
        };
        let events: Vec<_> = (0..MAX_AUDIT as u64 + 10).map(event).collect();
        memory.record(&events).await.unwrap();
        let kept = Audit::list(&memory, None, usize::MAX).await.unwrap();
        assert_eq!((kept.len(), kept[MAX_AUDIT - 1].at), (MAX_AUDIT, 10));
    }
}
