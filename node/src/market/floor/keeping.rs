//! Who keeps which room: taking rooms, giving them up, and finding those that nobody told of.
//!
//! It must not know what is kept of a room: that is the desk's.

use std::time::Duration;

use rustc_hash::FxHashSet;
use tickmesh_cluster::members::{Kind, LeaseState, Report};
use tickmesh_protocol::placement::keeper;
use tickmesh_protocol::room::RoomName;
use tokio::time::Instant;

use super::{Done, Floor, Known};
use crate::fanout::TAP;
use crate::market::desk::{Desk, DeskKey};

/// How often every node looks at all rooms that have a log.
const LIST_ALL: Duration = Duration::from_secs(30);
/// How long a room waits after nodes came or drained: its keeper until then writes what it has.
const HANDOVER: Duration = Duration::from_secs(1);
/// How long who gives up a room tries to write what waits.
const LEAVING: Duration = Duration::from_millis(700);
/// How long a room is known at least that has no log.
const FORGET: Duration = Duration::from_secs(60);

impl Floor {
    /// Asks the broker for rooms that nobody told of: those of publishers that are no node, which one node tells the others
    /// of, and those that were there before this node was.
    pub(super) fn list(&mut self) {
        let id = self.means.peers.id();
        let for_all = keeper("rooms", self.nodes.iter().map(String::as_str)) == Some(id);
        if !for_all && self.listed.is_some_and(|at| at.elapsed() < LIST_ALL) {
            return;
        }
        let (broker, settings) = (self.means.broker.clone(), self.settings.clone());
        self.job(async move {
            let Ok(rooms) = broker.rooms().await else { return Done::Nothing };
            Done::Listed(
                for_all,
                rooms
                    .into_iter()
                    .map(|(room, _)| room)
                    .filter(|room| settings.recorded(room).is_some())
                    .collect(),
            )
        });
    }

    /// Rooms that have no log any more are forgotten, so that names that were used once do not stay for ever.
    pub(super) fn forget(&mut self, listed: &[RoomName]) {
        let listed: FxHashSet<&RoomName> = listed.iter().collect();
        let gone = |(room, known): (&RoomName, &Known)| {
            let waits = known.desk.as_ref().is_some_and(Desk::waits);
            (!waits && known.since.elapsed() > FORGET && !listed.contains(room)).then(|| room.clone())
        };
        let gone: Vec<_> = self.rooms.iter().filter_map(gone).collect();
        for room in gone {
            self.leave(&room);
            self.rooms.remove(&room);
            self.known.write().remove(&room);
        }
    }

    pub(super) fn look(&mut self) {
        let peers = &self.means.peers;
        let serves = |member: &&Report| member.kind == Kind::Node && !member.draining;
        let mut nodes: Vec<String> = match peers.lease() {
            LeaseState::Held => {
                peers.members().iter().filter(serves).map(|member| member.id.clone()).collect()
            }
            LeaseState::Joining | LeaseState::Lost | LeaseState::Replaced => Vec::new(),
        };
        if self.stopping.is_some() {
            nodes.retain(|node| node != peers.id());
        }
        let lost = peers.lease() != LeaseState::Held;
        if nodes != self.nodes {
            let came = nodes.iter().any(|node| !self.nodes.contains(node));
            let gave_up = self
                .nodes
                .iter()
                .any(|node| !nodes.contains(node) && peers.members().iter().any(|member| member.id == *node));
            if (came && nodes.len() > 1) || gave_up {
                self.unsettled = Some(Instant::now());
            }
            self.nodes = nodes;
            for (room, known) in &mut self.rooms {
                known.mine = keeper(room.as_str(), self.nodes.iter().map(String::as_str))
                    == Some(self.means.peers.id());
            }
            if came {
                // Who has just come was told of nothing yet.
                self.listed = None;
                self.list();
            }
        }
        if lost {
            self.drop_all();
        }
        let rooms: Vec<_> = self.rooms.keys().cloned().collect();
        for room in rooms {
            self.look_at(&room);
        }
        self.tell();
        self.means
            .metrics
            .market
            .rooms
            .set(self.rooms.values().filter(|known| known.desk.is_some()).count() as i64);
    }

    /// Takes a room or gives it up, whichever is right now, and asks again for what failed.
    pub(super) fn look_at(&mut self, room: &RoomName) {
        let settled = self.unsettled.is_none_or(|at| at.elapsed() >= HANDOVER);
        let Some(known) = self.rooms.get_mut(room) else { return };
        let now = Instant::now();
        match (&mut known.desk, known.mine) {
            (None, true) if settled => {
                let is_market = self.settings.is_market(room);
                self.turns += 1;
                let key = DeskKey { room: room.clone(), turn: self.turns };
                known.desk = Some(Desk::new(key, known.symbol.clone(), is_market));
                self.join(room);
                self.open(room);
                self.alerts_of(room);
            }
            (Some(desk), false) => {
                let since = *desk.leaving.get_or_insert(now);
                if !desk.waits() || since.elapsed() > LEAVING {
                    self.leave(room);
                } else {
                    self.append(true);
                    self.keep_bars();
                }
            }
            (Some(desk), true) => {
                // While it was leaving nothing was taken.
                let returned = desk.leaving.take().is_some();
                let due = |at: &mut Option<Instant>| at.take_if(|at| *at <= now).is_some();
                let (opens, loads) = (due(&mut known.open_again), due(&mut known.alerts_again));
                let reads = due(&mut known.read_again);
                let joins = !known.joined;
                if joins {
                    self.join(room);
                }
                if opens {
                    self.open(room);
                }
                if loads {
                    self.alerts_of(room);
                }
                if returned {
                    self.doubt(room);
                } else if reads {
                    self.read(room);
                }
            }
            (None, _) => {}
        }
    }

    fn join(&mut self, room: &RoomName) {
        let Some(known) = self.rooms.get_mut(room) else { return };
        self.turns += 1;
        (known.turn, known.joined) = (self.turns, true);
        let (fanout, room, turn) = (self.means.fanout.clone(), room.clone(), known.turn);
        self.job(async move {
            let result = fanout.join(room.clone(), TAP, turn).await;
            Done::Joined(room, result)
        });
    }

    pub(super) fn leave(&mut self, room: &RoomName) {
        let Some(known) = self.rooms.get_mut(room) else { return };
        known.desk = None;
        self.waiting -= std::mem::take(&mut known.counted);
        (known.open_again, known.alerts_again, known.read_again) = (None, None, None);
        if std::mem::take(&mut known.joined) {
            let (fanout, room, turn) = (self.means.fanout.clone(), room.clone(), known.turn);
            self.job(async move {
                fanout.leave(room, TAP, turn).await;
                Done::Nothing
            });
        }
    }

    pub(super) fn drop_all(&mut self) {
        let kept: Vec<_> = self
            .rooms
            .iter()
            .filter(|(_, known)| known.desk.is_some())
            .map(|(room, _)| room.clone())
            .collect();
        for room in kept {
            tracing::warn!(%room, "a recorded room is given up as it is: this node stood still or lost its lease");
            self.leave(&room);
        }
    }
}
