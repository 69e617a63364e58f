//! Users' data of a single process, gone with it: for development and tests.
//!
//! It is bounded in bytes. A quarter of them is for the audit, whose oldest events go; a quarter for hits, of which those users
//! who hold most lose their oldest; half for what somebody asked to be kept, keys, revoked tokens, watchlists and alerts:
//! what does not fit is refused. It must not know whether anyone else keeps the same.

mod weight;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use tickmesh_cluster::fair;
use tickmesh_protocol::market::{AlertSpec, Symbol};
use tickmesh_protocol::position::Epoch;

use self::weight::Budget;
use super::{
    ACKNOWLEDGED_MS, Alert, AlertState, Alerts, ApiKey, Audit, AuditEvent, Credentials, Hit, Hits,
    Relational, RevokedToken, Watchlists, rules,
};
use crate::StoreError;

/// One in so many bytes of hits goes when there are too many, so that this is seldom looked for.
const SHARE: usize = 8;

/// Clones share the data.
#[derive(Debug, Clone)]
pub struct MemoryRelational {
    data: Arc<Mutex<Data>>,
}

/// Alert, epoch and sequence number of a hit.
type Fired = (u64, Epoch, u64);

#[derive(Debug, Default)]
struct Data {
    /// Of keys, revoked tokens, watchlists and alerts.
    asked: Budget,
    hit_bytes: Budget,
    audit_bytes: Budget,
    keys: BTreeMap<String, ApiKey>,
    revoked: BTreeMap<String, u64>,
    watchlists: FxHashMap<String, Vec<Symbol>>,
    alerts: BTreeMap<u64, Alert>,
    newest_alert: u64,
    hits: BTreeMap<u64, KeptHit>,
    /// Of all hits.
    fired: FxHashSet<Fired>,
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
    /// Nothing yet, and never more than so many bytes.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let data = Data {
            asked: Budget::of(most / 2),
            hit_bytes: Budget::of(most / 4),
            audit_bytes: Budget::of(most / 4),
            ..Data::default()
        };
        Self { data: Arc::new(Mutex::new(data)) }
    }

    /// Bytes that are held, and that may be.
    #[must_use]
    pub fn bytes(&self) -> (usize, usize) {
        let data = self.data.lock();
        let all = [data.asked, data.hit_bytes, data.audit_bytes];
        (all.iter().map(|part| part.held).sum(), all.iter().map(|part| part.most).sum())
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

impl Data {
    /// Counts something that somebody asked to be kept; refuses it where it does not fit.
    fn ask(&mut self, bytes: usize) -> Result<(), StoreError> {
        if !self.asked.has_room(bytes) {
            return Err(StoreError::Refused(
                "the memory for users' data is full (stores.memory_user_bytes)".into(),
            ));
        }
        self.asked.add(bytes);
        Ok(())
    }

    fn forget_hit(&mut self, id: u64) {
        if let Some(kept) = self.hits.remove(&id) {
            self.hit_bytes.take(weight::hit(&kept));
            self.fired.remove(&fired(&kept.hit));
        }
    }

    fn forget_hits(&mut self, which: impl Fn(&KeptHit) -> bool) {
        let ids: Vec<u64> = self.hits.iter().filter(|(_, kept)| which(kept)).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.forget_hit(id));
    }

    /// Hits are too many: those users who have most lose their oldest.
    fn evict_hits(&mut self) {
        let mut users: FxHashMap<String, usize> = FxHashMap::default();
        for kept in self.hits.values() {
            *users.entry(kept.hit.user_id.clone()).or_default() += weight::hit(kept);
        }
        let most = self.hit_bytes.most - self.hit_bytes.most / SHARE;
        let level = fair::level(users.values().copied().collect(), most);
        let mut gone = Vec::new();
        for (id, kept) in &self.hits {
            if let Some(held) = users.get_mut(&kept.hit.user_id).filter(|held| **held > level) {
                *held -= weight::hit(kept);
                gone.push(*id);
            }
        }
        gone.into_iter().for_each(|id| self.forget_hit(id));
        self.fired.shrink_to_fit();
    }
}

#[async_trait]
impl Credentials for MemoryRelational {
    async fn add_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        rules::key(key)?;
        let mut data = self.data.lock();
        if !data.keys.contains_key(&key.id) {
            data.ask(weight::key(key))?;
            data.keys.insert(key.id.clone(), key.clone());
        }
        Ok(())
    }

    async fn remove_key(&self, id: &str) -> Result<bool, StoreError> {
        let mut data = self.data.lock();
        let removed = data.keys.remove(id);
        if let Some(key) = &removed {
            data.asked.take(weight::key(key));
        }
        Ok(removed.is_some())
    }

    async fn keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        Ok(self.data.lock().keys.values().cloned().collect())
    }

    async fn revoke(&self, token: &RevokedToken) -> Result<(), StoreError> {
        rules::token(token)?;
        let mut data = self.data.lock();
        if !data.revoked.contains_key(&token.jti) {
            data.ask(weight::revoked(&token.jti))?;
        }
        let expires_at = data.revoked.entry(token.jti.clone()).or_default();
        *expires_at = token.expires_at.max(*expires_at);
        Ok(())
    }

    async fn revoked(&self, now: u64) -> Result<Vec<RevokedToken>, StoreError> {
        let mut data = self.data.lock();
        let data = &mut *data;
        data.revoked.retain(|jti, expires_at| {
            let stays = *expires_at > now;
            if !stays {
                data.asked.take(weight::revoked(jti));
            }
            stays
        });
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
        let places = held.len();
        let before = if places == 0 { 0 } else { weight::watchlist(user_id, places) };
        data.ask(weight::watchlist(user_id, places + 1) - before + weight::symbol(symbol))?;
        let list = data.watchlists.entry(user_id.to_owned()).or_default();
        list.reserve_exact(1);
        list.push(symbol.clone());
        Ok(true)
    }

    async fn remove(&self, user_id: &str, symbol: &Symbol) -> Result<bool, StoreError> {
        let mut data = self.data.lock();
        let data = &mut *data;
        let Some(held) = data.watchlists.get_mut(user_id) else { return Ok(false) };
        let Some(place) = held.iter().position(|one| one == symbol) else { return Ok(false) };
        data.asked.take(weight::symbol(symbol) + weight::watchlist(user_id, held.len()));
        held.remove(place);
        held.shrink_to_fit();
        if held.is_empty() {
            data.watchlists.remove(user_id);
        } else {
            data.asked.add(weight::watchlist(user_id, held.len()));
        }
        Ok(true)
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
        let alert = Alert {
            id: data.newest_alert + 1,
            user_id: user_id.to_owned(),
            spec: spec.clone(),
            created_at: now,
            active: true,
            state: state.clone(),
        };
        data.ask(weight::alert(&alert))?;
        data.newest_alert = alert.id;
        data.alerts.insert(alert.id, alert.clone());
        Ok(Some(alert))
    }

    async fn delete(&self, user_id: &str, id: u64) -> Result<bool, StoreError> {
        let mut data = self.data.lock();
        if data.alerts.get(&id).is_none_or(|alert| alert.user_id != user_id) {
            return Ok(false);
        }
        if let Some(alert) = data.alerts.remove(&id) {
            data.asked.take(weight::alert(&alert));
        }
        data.forget_hits(|kept| kept.hit.alert_id == id);
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
        let data = &mut *data;
        for (id, state) in states {
            if let Some(alert) = data.alerts.get_mut(id) {
                stand(&mut data.asked, alert, state);
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
            stand(&mut data.asked, alert, state);
            alert.active = !alert.spec.once;
            data.newest_hit += 1;
            let hit = rules::hit_of(alert, hit, data.newest_hit);
            let kept = KeptHit { hit: hit.clone(), told: false, acknowledged: None };
            data.hit_bytes.add(weight::hit(&kept));
            data.hits.insert(hit.hit_id, kept);
            new.push(hit);
            if data.hit_bytes.is_over() {
                data.evict_hits();
            }
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
        data.forget_hits(|kept| {
            kept.hit.user_id == user_id && kept.acknowledged.is_some_and(|at| at + ACKNOWLEDGED_MS <= now)
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
fn fired(hit: &Hit) -> Fired {
    (hit.alert_id, hit.position.epoch.clone(), hit.position.seq)
}

/// An alert stands so, unless what is kept is newer. Its bytes are counted, but not refused.
fn stand(asked: &mut Budget, alert: &mut Alert, state: &AlertState) {
    if rules::replaces(state, &alert.state) {
        asked.take(weight::alert(alert));
        alert.state = state.clone();
        asked.add(weight::alert(alert));
    }
}

#[async_trait]
impl Audit for MemoryRelational {
    async fn record(&self, events: &[AuditEvent]) -> Result<(), StoreError> {
        let mut data = self.data.lock();
        for event in events {
            data.newest_event += 1;
            let place = (event.at, data.newest_event);
            let event = rules::audit_event(event);
            data.audit_bytes.add(weight::event(&event));
            data.audit.insert(place, event);
            while data.audit_bytes.is_over()
                && let Some((_, oldest)) = data.audit.pop_first()
            {
                data.audit_bytes.take(weight::event(&oldest));
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
        let data = &mut *data;
        let mut pruned = 0;
        while pruned < most as u64
            && let Some(oldest) = data.audit.first_entry()
            && oldest.key().0 < before
        {
            let oldest = oldest.remove();
            data.audit_bytes.take(weight::event(&oldest));
            pruned += 1;
        }
        Ok(pruned)
    }
}

#[cfg(test)]
mod tests;
