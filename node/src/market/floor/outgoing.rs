//! What leaves the rooms that are kept here: rows and bars to the store, bars and hits to those who follow them.

use std::time::Duration;

use serde_json::value::to_raw_value;
use tickmesh_cluster::broker::BrokerError;
use tickmesh_protocol::market::Period;
use tickmesh_protocol::message::{Message, Publish};
use tickmesh_protocol::position::Position;
use tickmesh_protocol::room::RoomName;
use tickmesh_store::StoreError;
use tickmesh_store::relational::{AlertState, Hit};
use tickmesh_store::series::{KeptBar, RoomRows};
use tokio::time::Instant;

use super::super::desk::{Desk, DeskKey};
use super::super::rows::Rows;
use super::{Done, Floor, WAITING};
use crate::clock;

/// Milliseconds after which a bar closes by the clock, where no tick came for as long.
const CLOSE_MS: u64 = 2_000;
/// Bars in one write.
const BAR_BATCH: usize = 2_000;
/// Hits in one write.
const HIT_BATCH: usize = 500;

impl Floor {
    /// Writes rows: what there is, or only if it fills a write.
    pub(super) fn append(&mut self, any: bool) {
        let Some(series) = self.means.stores.series.clone() else { return };
        let desks = || self.rooms.values().filter_map(|known| known.desk.as_ref());
        let waiting: usize = desks().filter_map(|desk| desk.rows.as_ref()).map(Rows::waiting).sum();
        self.means.metrics.market.waiting.set(waiting as i64);
        let due = if any { waiting > 0 } else { waiting >= self.settings.batch };
        if self.appending || !due || Instant::now() < self.append_after {
            return;
        }
        let (mut rows, mut counts): (Vec<RoomRows>, Vec<(DeskKey, usize)>) = Default::default();
        let mut left = self.settings.batch;
        for desk in desks() {
            let Some(part) = desk.rows.as_ref().filter(|part| part.waiting() > 0) else { continue };
            // Rows that may be refused go alone.
            if part.is_wary() && !rows.is_empty() {
                continue;
            }
            let chunk = part.chunk(left);
            left -= chunk.len();
            counts.push((desk.key.clone(), chunk.len()));
            rows.push(RoomRows {
                room: desk.key.room.clone(),
                symbol: desk.symbol.clone(),
                exchange: desk.exchange().to_owned(),
                rows: chunk,
            });
            if left == 0 || part.is_wary() {
                break;
            }
        }
        self.appending = true;
        self.job(async move {
            let result = series.call(|series| series.append(&rows)).await;
            Done::Appended(counts, result)
        });
    }

    pub(super) fn appended(
        &mut self,
        rows: Vec<(DeskKey, usize)>,
        result: Result<(), StoreError>,
        again: Instant,
    ) {
        self.appending = false;
        let alone = rows.len() == 1;
        let metrics = self.means.metrics.market.clone();
        if result.is_ok() {
            metrics.writes.observe(rows.iter().map(|(_, count)| *count as u64).sum(), 1);
        }
        for (key, count) in &rows {
            let room = &key.room;
            let desk = self.of(key).and_then(|known| known.desk.as_mut());
            let Some(part) = desk.and_then(|desk| desk.rows.as_mut()) else { continue };
            match &result {
                Ok(()) => {
                    part.written(*count);
                    metrics.recorded.inc_by(*count as u64);
                }
                Err(StoreError::Refused(reason)) if alone => {
                    let dropped = part.refused(*count) as u64;
                    metrics.refused.inc_by(dropped);
                    if dropped > 0 {
                        tracing::warn!(%room, reason, "the store cannot take a message: it is not recorded");
                    }
                }
                Err(StoreError::Refused(_)) => part.be_wary(*count),
                Err(_) => {}
            }
        }
        match result {
            Ok(()) | Err(StoreError::Refused(_)) => {
                self.append(false);
                // There may be room again for what is in the logs.
                for (key, _) in rows {
                    self.read(&key.room);
                }
            }
            Err(_) => self.append_after = again,
        }
    }

    pub(super) fn keep_bars(&mut self) {
        let Some(series) = self.means.stores.series.clone() else { return };
        let now = clock::now().utc;
        let quiet = |desk: &Desk| desk.heard.elapsed() >= Duration::from_millis(CLOSE_MS);
        for desk in self.rooms.values_mut().filter_map(|known| known.desk.as_mut()) {
            if quiet(desk)
                && !desk.is_reading()
                && let Some(bars) = &mut desk.bars
            {
                bars.handle_time((now + self.settings.rules.late_ms).saturating_sub(CLOSE_MS));
            }
        }
        if self.keeping_bars || Instant::now() < self.bars_after {
            return;
        }
        let mut all = Vec::new();
        let mut count = 0;
        for desk in self.rooms.values_mut().filter_map(|known| known.desk.as_mut()) {
            let Some(part) = &mut desk.bars else { continue };
            self.means.metrics.market.bars_dropped.inc_by(std::mem::take(&mut part.dropped));
            let bars = part.unwritten();
            if !bars.is_empty() && count < BAR_BATCH {
                count += bars.len();
                all.push((desk.key.clone(), bars));
            }
        }
        if all.is_empty() {
            return;
        }
        self.keeping_bars = true;
        self.job(async move {
            let bars: Vec<KeptBar> = all.iter().flat_map(|(_, bars)| bars.iter().cloned()).collect();
            let result = series.call(|series| series.put_bars(&bars)).await;
            Done::BarsKept(all, result)
        });
    }

    /// Newest states of open bars, for rooms that somebody follows.
    pub(super) fn publish_updates(&mut self) {
        let now = clock::now().utc;
        let peers = self.means.peers.clone();
        for known in self.rooms.values_mut() {
            let symbol = &known.symbol;
            let Some(desk) = known.desk.as_mut().filter(|desk| desk.leaving.is_none()) else { continue };
            if let Some(bars) = &mut desk.bars {
                let followed = |period: Period| peers.subscribers(&period.room(symbol)) > 0;
                self.updates.extend(bars.poll_open(now, followed));
            }
        }
        self.updates.truncate(WAITING);
        self.outgoing();
    }

    /// Publishes and keeps what there is to publish and to keep.
    pub(super) fn outgoing(&mut self) {
        let now = clock::now().utc;
        for desk in self.rooms.values_mut().filter_map(|known| known.desk.as_mut()) {
            if let Some(bars) = &mut desk.bars {
                self.closes.extend(bars.poll_closed(now));
            }
            if let Some(watches) = &mut desk.watches {
                self.fired.extend(watches.poll_fired());
                self.states.extend(watches.poll_changed());
            }
        }
        let metrics = &self.means.metrics.market;
        for (queue, dropped) in
            [(self.closes.len(), &metrics.bars_unpublished), (self.fired.len(), &metrics.hits_lost)]
        {
            dropped.inc_by(queue.saturating_sub(WAITING) as u64);
        }
        self.closes.truncate(WAITING);
        self.fired.truncate(WAITING);
        self.publish();
        self.fire();
    }

    pub(super) fn publish(&mut self) {
        let waits = !self.closes.is_empty() || !self.updates.is_empty();
        if self.publishing || !waits || Instant::now() < self.publish_after {
            return;
        }
        let most = self.settings.batch;
        let mut messages: Vec<Publish> = self.closes.drain(..self.closes.len().min(most)).collect();
        let more = self.updates.len().min(most);
        messages.extend(self.updates.drain(..more));
        self.publishing = true;
        let broker = self.means.broker.clone();
        self.job(async move {
            let results = broker.publish(messages.clone()).await;
            Done::Published(messages, results)
        });
    }

    pub(super) fn published(
        &mut self,
        messages: Vec<Publish>,
        results: Vec<Result<Position, BrokerError>>,
        again: Instant,
    ) {
        self.publishing = false;
        let failed = messages.into_iter().zip(results).filter(|(_, result)| result.is_err());
        // What an open bar is will be told again anyway.
        let closes: Vec<Publish> =
            failed.map(|(message, _)| message).filter(|message| &*message.event == "bar_close").collect();
        if !closes.is_empty() {
            self.publish_after = again;
            closes.into_iter().rev().for_each(|message| self.closes.push_front(message));
        }
    }

    pub(super) fn fire(&mut self) {
        let Some(users) = self.means.stores.users.clone() else { return };
        if Instant::now() < self.fire_after {
            return;
        }
        if !self.firing && !self.fired.is_empty() {
            self.firing = true;
            let hits: Vec<_> = self.fired.drain(..self.fired.len().min(HIT_BATCH)).collect();
            let users = users.clone();
            self.job(async move {
                let result = users.call(|users| users.hits.fire(&hits)).await;
                Done::Fired(hits, result)
            });
        }
        if !self.keeping_states && !self.states.is_empty() {
            self.keeping_states = true;
            let states: Vec<_> = std::mem::take(&mut self.states).into_iter().collect();
            self.job(async move {
                let result = users.call(|users| users.alerts.keep(&states)).await;
                Done::StatesKept(states, result)
            });
        }
    }

    pub(super) fn was_fired(
        &mut self,
        hits: Vec<(Hit, AlertState)>,
        result: Result<Vec<Hit>, StoreError>,
        again: Instant,
    ) {
        self.firing = false;
        match result {
            Ok(new) => {
                self.means.metrics.market.hits.inc_by(new.len() as u64);
                new.into_iter().for_each(|hit| self.tell(hit));
            }
            Err(error) => {
                tracing::warn!(%error, "alerts fired that cannot be kept yet, will try again");
                self.fire_after = again;
                hits.into_iter().rev().for_each(|hit| self.fired.push_front(hit));
            }
        }
    }

    /// Pushes a hit into its user's room, and tells those of the user's sessions that do not follow it.
    pub(super) fn tell(&mut self, hit: Hit) {
        let (broker, peers) = (self.means.broker.clone(), self.means.peers.clone());
        let Some(room) = RoomName::of_user(&hit.user_id) else { return };
        let Ok(data) = to_raw_value(&hit) else { return };
        let timestamp = clock::now().utc;
        self.job(async move {
            let event: std::sync::Arc<str> = "alert".into();
            let publish = Publish {
                room: room.clone(),
                event: event.clone(),
                data: data.clone(),
                message_id: Some(format!("alert:{}", hit.hit_id).into()),
                key: None,
                timestamp: Some(timestamp),
            };
            let Some(Ok(position)) = broker.publish(vec![publish]).await.pop() else {
                return Done::Told(hit, false);
            };
            let (seq, accepted_at) = (position.seq, timestamp);
            let message = Message { seq, timestamp, accepted_at, event, key: None, data };
            peers.notify(&hit.user_id, room, position.epoch, message).await;
            Done::Told(hit, true)
        });
    }
}
