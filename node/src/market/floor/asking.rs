//! What a room needs to know before it can be kept, and what it lacks of its log.

use tickmesh_protocol::market::{Period, Symbol, Timeframe};
use tickmesh_protocol::message::Replay;
use tickmesh_protocol::room::RoomName;
use tickmesh_store::series::{BarQuery, Select};

use super::super::desk::Read;
use super::{Done, Floor};

/// Messages of a log that are read at a time.
const READ: usize = 2_000;
/// Bars of each period that are taken up again.
const RESTORED: usize = 3;

impl Floor {
    /// Starts what waits, as far as there may be more under way.
    pub(super) fn ask(&mut self) {
        while let Some(room) = self.opens.next() {
            self.open_now(&room);
        }
        while let Some(room) = self.loads.next() {
            self.load_now(&room);
        }
        while let Some(room) = self.reads.next() {
            self.read_now(&room);
        }
    }

    /// Asks the time-series store where it stands.
    pub(super) fn open(&mut self, room: &RoomName) {
        self.opens.push(room);
        self.ask();
    }

    fn open_now(&mut self, room: &RoomName) {
        let Some(series) = self.means.stores.series.clone() else { return };
        let Some(desk) = self.rooms.get(room).and_then(|known| known.desk.as_ref()) else { return };
        let (key, symbol, is_market) = (desk.key.clone(), desk.symbol.clone(), desk.is_market);
        self.opens.begun();
        self.job(async move {
            let result = async {
                let stored = series.call(|series| series.position(&key.room)).await?;
                let mut bars = Vec::new();
                for period in Period::ALL.into_iter().filter(|_| is_market) {
                    let query = BarQuery {
                        symbol: symbol.clone(),
                        timeframe: Timeframe::Kept(period),
                        span: 0..u64::MAX,
                        limit: RESTORED,
                        newest: true,
                    };
                    bars.extend(series.call(|series| series.bars(&query)).await?);
                }
                Ok((stored, bars))
            };
            let result = result.await;
            Done::Opened(key, result)
        });
    }

    pub(super) fn load_alerts(&mut self, symbol: Option<&Symbol>) {
        let rooms: Vec<_> = self
            .rooms
            .iter()
            .filter(|(_, known)| symbol.is_none_or(|symbol| known.symbol == *symbol))
            .filter(|(_, known)| known.desk.as_ref().is_some_and(|desk| desk.is_market))
            .map(|(room, _)| room.clone())
            .collect();
        for room in rooms {
            self.alerts_of(&room);
        }
    }

    /// Asks the relational store for a room's alerts.
    pub(super) fn alerts_of(&mut self, room: &RoomName) {
        self.loads.push(room);
        self.ask();
    }

    fn load_now(&mut self, room: &RoomName) {
        let Some(users) = self.means.stores.users.clone() else { return };
        let desk = self.rooms.get(room).and_then(|known| known.desk.as_ref());
        let Some(desk) = desk.filter(|desk| desk.is_market) else { return };
        let (key, symbol) = (desk.key.clone(), desk.symbol.clone());
        self.loads.begun();
        self.job(async move {
            let alerts = users.call(|users| users.alerts.of_symbol(&symbol)).await;
            Done::Alerts(key, alerts)
        });
    }

    /// Reads what the room's desk lacks of its log, if it lacks something.
    pub(super) fn read(&mut self, room: &RoomName) {
        self.reads.push(room);
        self.ask();
    }

    fn read_now(&mut self, room: &RoomName) {
        let Some(desk) = self.rooms.get_mut(room).and_then(|known| known.desk.as_mut()) else { return };
        let Some(from) = desk.begin_reading() else { return };
        let bars = desk.bars.as_ref().map(|bars| bars.cursor().clone());
        let key = desk.key.clone();
        self.reads.begun();
        let (broker, series) = (self.means.broker.clone(), self.means.stores.series.clone());
        self.job(async move {
            let result = async {
                let some = Replay::Since { seq: from.seq, limit: READ };
                let mut history = match from.epoch.as_str() {
                    "" => broker.history(&key.room, Replay::After(from.clone())).await?,
                    _ => broker.history(&key.room, some).await?,
                };
                if !from.epoch.as_str().is_empty() && history.position.epoch != from.epoch {
                    // Another life of the log, with numbers of its own.
                    history = broker.history(&key.room, Replay::After(from)).await?;
                }
                let all = history.messages.last().is_none_or(|last| last.seq >= history.position.seq);
                let first = history.messages.first().map_or(history.position.seq + 1, |first| first.seq);
                let mut fill = Vec::new();
                if let (Some(bars), Some(series)) = (bars, series)
                    && bars.epoch == history.position.epoch
                    && bars.seq + 1 < first
                {
                    // What the log has no more, the store may have.
                    let select = Select::Seqs { seqs: bars.seq + 1..first, from: 0 };
                    fill = series.call(|series| series.rows(&key.room, &select)).await.unwrap_or_default();
                    fill.retain(|row| row.epoch == bars.epoch);
                }
                Ok((Read { history, fill }, all))
            };
            let result = result.await;
            Done::Read(key, result)
        });
    }

    /// Reads what the room's log has, whatever was heard of it.
    pub(super) fn doubt(&mut self, room: &RoomName) {
        if let Some(desk) = self.rooms.get_mut(room).and_then(|known| known.desk.as_mut()) {
            desk.doubt();
            self.read(room);
        }
    }

    /// Live messages were dropped, nobody knows of which rooms.
    pub(super) fn check_all(&mut self) {
        let rooms: Vec<_> = self.rooms.keys().cloned().collect();
        for room in rooms {
            self.doubt(&room);
        }
    }
}
