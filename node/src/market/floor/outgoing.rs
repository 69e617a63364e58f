//! What leaves the rooms that are kept here: rows and bars to the store, bars and hits to those who follow them.

use std::time::Duration;

use tickmesh_cluster::broker::BrokerError;
use tickmesh_protocol::market::Period;
use tickmesh_protocol::message::Publish;
use tickmesh_protocol::position::Position;
use tickmesh_protocol::room::RoomName;
use tickmesh_store::StoreError;
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

impl Floor {
    /// Writes rows: what there is, or only if it fills a write.
    pub(super) fn append(&mut self, any: bool) {
        let Some(series) = self.means.stores.series.clone() else { return };
        self.means.metrics.market.waiting.set(self.waiting as i64);
        let due = if any { self.waiting > 0 } else { self.waiting >= self.settings.batch };
        if self.appending || !due || Instant::now() < self.append_after {
            return;
        }
        let (mut rows, mut counts): (Vec<RoomRows>, Vec<(DeskKey, usize)>) = Default::default();
        let mut left = self.settings.batch;
        while let Some(room) = self.unwritten.next() {
            let Some(desk) = self.rooms.get(&room).and_then(|known| known.desk.as_ref()) else { continue };
            let Some(part) = desk.rows.as_ref().filter(|part| part.waiting() > 0) else { continue };
            // Rows that may be refused go alone.
            if part.is_wary() && !rows.is_empty() {
                self.unwritten.push(&room);
                break;
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
        if rows.is_empty() {
            return;
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
        for (key, _) in &rows {
            self.count(&key.room);
        }
        match result {
            Ok(()) | Err(StoreError::Refused(_)) => {
                self.append(false);
                // There may be room again for what is in the logs.
                for (key, _) in rows {
                    let lacks = self.of(&key).and_then(|known| known.desk.as_ref()).is_some_and(Desk::lacks);
                    if lacks {
                        self.read(&key.room);
                    }
                }
            }
            Err(_) => self.append_after = again,
        }
    }

    /// Keeps the sum of the rows that wait, and the rooms that have some.
    fn count(&mut self, room: &RoomName) {
        let Some(known) = self.rooms.get_mut(room) else { return };
        let rows = known.desk.as_ref().and_then(|desk| desk.rows.as_ref());
        let waiting = rows.map_or(0, Rows::waiting);
        self.waiting = self.waiting - known.counted + waiting;
        known.counted = waiting;
        if waiting > 0 {
            self.unwritten.push(room);
        }
    }

    /// Closes bars whose time is over, in rooms where no tick came for a while.
    pub(super) fn close_bars(&mut self) {
        let now = clock::now().utc;
        let late_ms = self.settings.rules.late_ms;
        let quiet = |desk: &Desk| desk.heard.elapsed() >= Duration::from_millis(CLOSE_MS);
        for (room, known) in &mut self.rooms {
            if let Some(desk) = &mut known.desk
                && quiet(desk)
                && !desk.is_reading()
                && let Some(bars) = &mut desk.bars
                && bars.handle_time((now + late_ms).saturating_sub(CLOSE_MS))
            {
                self.touched.insert(room.clone());
            }
        }
        self.outgoing();
    }

    /// Writes bars that changed.
    pub(super) fn keep_bars(&mut self) {
        let Some(series) = self.means.stores.series.clone() else { return };
        if self.keeping_bars || Instant::now() < self.bars_after {
            return;
        }
        let mut all = Vec::new();
        let mut count = 0;
        while count < BAR_BATCH
            && let Some(room) = self.unkept.next()
        {
            let Some(desk) = self.rooms.get_mut(&room).and_then(|known| known.desk.as_mut()) else {
                continue;
            };
            let Some(part) = &mut desk.bars else { continue };
            self.means.metrics.market.bars_dropped.inc_by(std::mem::take(&mut part.dropped));
            let bars = part.unwritten();
            if !bars.is_empty() {
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

    pub(super) fn bars_kept(
        &mut self,
        bars: Vec<(DeskKey, Vec<KeptBar>)>,
        result: Result<(), StoreError>,
        again: Instant,
    ) {
        self.keeping_bars = false;
        let full = bars.iter().map(|(_, bars)| bars.len()).sum::<usize>() >= BAR_BATCH;
        for (key, bars) in bars {
            let desk = self.of(&key).and_then(|known| known.desk.as_mut());
            let Some(part) = desk.and_then(|desk| desk.bars.as_mut()) else { continue };
            if result.is_ok() {
                part.written(&bars);
            }
            let still = part.is_dirty();
            if still {
                self.unkept.push(&key.room);
            }
            if result.is_ok() {
                self.means.metrics.market.bars.inc_by(bars.len() as u64);
            }
        }
        if result.is_err() {
            self.bars_after = again;
        } else if full {
            // Others wait already.
            self.keep_bars();
        }
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
        for room in std::mem::take(&mut self.touched) {
            let Some(desk) = self.rooms.get_mut(&room).and_then(|known| known.desk.as_mut()) else {
                continue;
            };
            if let Some(bars) = &mut desk.bars {
                self.closes.extend(bars.poll_closed(now));
                if bars.is_dirty() {
                    self.unkept.push(&room);
                }
            }
            if let Some(watches) = &mut desk.watches {
                let dropped = self.hits.push(watches.poll_fired());
                self.means.metrics.market.hits_lost.inc_by(dropped);
                self.hits.changed(watches.poll_changed());
            }
            self.count(&room);
        }
        let dropped = self.closes.len().saturating_sub(WAITING);
        self.means.metrics.market.bars_unpublished.inc_by(dropped as u64);
        self.closes.truncate(WAITING);
        self.append(false);
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
}
