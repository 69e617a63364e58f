//! A connection that wants no more than so many bytes a second, and how its rooms share them.
//!
//! Bytes come from a token bucket: what it holds may leave at once, then as much as flows in. Rooms with something to send
//! stand in a ring and are served in turn, each until what it was allowed is used up (surplus round robin, a deficit round
//! robin that need not know a message's size before it is taken): so a room that says much takes nothing from one that says
//! little.
//!
//! Invariants: a room's messages keep their order; over any time no more leaves than flows in, one bucket and one message;
//! while the bucket holds something, somebody who waits is served. It must not know sessions, encodings or clocks.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use crate::error::Failure;
use crate::room::RoomName;

/// Fewest bytes a second that a connection may ask for.
pub const MIN_BANDWIDTH: u64 = 1_024;
/// Most bytes a second that are told from no limit.
pub const MAX_BANDWIDTH: u64 = 1_000_000_000;
/// Bytes that a room may send in its turn.
const QUANTUM: i64 = 2_048;
/// What the bucket holds, in milliseconds of what flows in; but at least one turn.
const BURST_MS: i64 = 100;
/// The most that answers may take in advance of what flows in, in milliseconds of it.
const DEBT_MS: i64 = 1_000;

/// Whether a client may ask for so many bytes a second.
///
/// # Errors
/// [`ErrorCode::InvalidParameters`](crate::error::ErrorCode::InvalidParameters) with what is allowed.
pub fn check_bandwidth(rate: u64) -> Result<(), Failure> {
    if (MIN_BANDWIDTH..=MAX_BANDWIDTH).contains(&rate) {
        return Ok(());
    }
    let text =
        format!("max_bandwidth: an integer from {MIN_BANDWIDTH} to {MAX_BANDWIDTH}, in bytes a second");
    Err(Failure::parameters(text))
}

/// What is to be sent next.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn<T> {
    /// This.
    Send(T),
    /// It is the turn of this room, which has nothing queued: ask it what it has, and then call [`Shaper::sent`] or
    /// [`Shaper::idle`].
    Ask(RoomName),
    /// Nothing before this time, in milliseconds on the monotonic clock.
    Wait(u64),
    /// Nobody wants to send anything.
    Idle,
}

/// The queues of a connection; see the module's documentation.
#[derive(Debug)]
pub struct Shaper<T> {
    /// Bytes a second, or thousandths of a byte a millisecond.
    rate: i64,
    /// What may leave, in thousandths of a byte; negative where more has left than has flowed in.
    credit: i64,
    /// When the credit was right, in milliseconds on the monotonic clock.
    at: u64,
    ring: VecDeque<RoomName>,
    lanes: FxHashMap<RoomName, Lane<T>>,
    bytes: usize,
    /// When somebody may be served again who was told to wait.
    waiting: Option<u64>,
}

#[derive(Debug)]
struct Lane<T> {
    /// Bytes that it may still send in this turn; negative where the last message was larger than that.
    allowed: i64,
    queue: VecDeque<Queued<T>>,
    /// It stands in the ring.
    active: bool,
    /// It is to be asked when its queue is empty.
    asks: bool,
}

#[derive(Debug)]
struct Queued<T> {
    item: T,
    bytes: usize,
    at: u64,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self { allowed: 0, queue: VecDeque::new(), active: false, asks: false }
    }
}

impl<T> Shaper<T> {
    /// For so many bytes a second, from [`MIN_BANDWIDTH`] to [`MAX_BANDWIDTH`].
    #[must_use]
    pub fn new(rate: u64, now: u64) -> Self {
        let rate = rate.clamp(MIN_BANDWIDTH, MAX_BANDWIDTH) as i64;
        let mut shaper = Self {
            rate,
            credit: 0,
            at: now,
            ring: VecDeque::new(),
            lanes: FxHashMap::default(),
            bytes: 0,
            waiting: None,
        };
        shaper.credit = shaper.burst();
        shaper
    }

    fn burst(&self) -> i64 {
        (self.rate * BURST_MS).max(QUANTUM * 1_000)
    }

    fn fill(&mut self, now: u64) {
        let passed = i64::try_from(now.saturating_sub(self.at)).unwrap_or(i64::MAX);
        self.at = self.at.max(now);
        self.credit = self.credit.saturating_add(self.rate.saturating_mul(passed)).min(self.burst());
    }

    /// Bytes leave that nobody queued here, such as answers. They do not wait, but others wait for what they took, a second at
    /// most.
    pub fn spend(&mut self, now: u64, bytes: usize) {
        self.fill(now);
        let debt = -self.rate * DEBT_MS;
        self.credit = (self.credit - bytes as i64 * 1_000).max(debt.min(self.credit));
    }

    /// Queues a message of a room.
    pub fn push(&mut self, room: &RoomName, item: T, bytes: usize, now: u64) {
        self.bytes += bytes;
        let lane = self.lane(room);
        lane.queue.push_back(Queued { item, bytes, at: now });
        self.activate(room);
    }

    /// A room has something that it does not queue here.
    pub fn ask(&mut self, room: &RoomName) {
        self.lane(room).asks = true;
        self.activate(room);
    }

    fn lane(&mut self, room: &RoomName) -> &mut Lane<T> {
        self.lanes.entry(room.clone()).or_default()
    }

    fn activate(&mut self, room: &RoomName) {
        if let Some(lane) = self.lanes.get_mut(room)
            && !std::mem::replace(&mut lane.active, true)
        {
            self.ring.push_back(room.clone());
        }
    }

    /// What is to be sent now.
    pub fn next(&mut self, now: u64) -> Turn<T> {
        self.waiting = None;
        self.fill(now);
        if self.ring.is_empty() {
            return Turn::Idle;
        }
        if self.credit <= 0 {
            let until = self.at + 1 + (-self.credit / self.rate) as u64;
            self.waiting = Some(until);
            return Turn::Wait(until);
        }
        while let Some(room) = self.ring.front() {
            let Some(lane) = self.lanes.get_mut(room) else {
                self.ring.pop_front();
                continue;
            };
            if lane.allowed <= 0 {
                lane.allowed += QUANTUM;
                self.ring.rotate_left(1);
                continue;
            }
            let Some(next) = lane.queue.pop_front() else {
                if lane.asks {
                    return Turn::Ask(room.clone());
                }
                self.leave_ring();
                continue;
            };
            lane.allowed -= next.bytes as i64;
            self.bytes -= next.bytes;
            self.credit -= next.bytes as i64 * 1_000;
            if lane.queue.is_empty() && !lane.asks {
                self.leave_ring();
            }
            return Turn::Send(next.item);
        }
        Turn::Idle
    }

    /// The room at the front has nothing more. What it sent too much it still owes; what it may still send is forfeit.
    fn leave_ring(&mut self) {
        let Some(room) = self.ring.pop_front() else { return };
        if let Some(lane) = self.lanes.get_mut(&room) {
            lane.active = false;
            lane.allowed = lane.allowed.min(0);
            if lane.allowed == 0 && lane.queue.is_empty() {
                self.lanes.remove(&room);
            }
        }
    }

    /// The room that was asked sent so many bytes.
    pub fn sent(&mut self, room: &RoomName, bytes: usize) {
        self.credit -= bytes as i64 * 1_000;
        if let Some(lane) = self.lanes.get_mut(room) {
            lane.allowed -= bytes as i64;
        }
    }

    /// The room that was asked has nothing, or nothing yet.
    pub fn idle(&mut self, room: &RoomName) {
        if let Some(lane) = self.lanes.get_mut(room) {
            lane.asks = false;
        }
        if self.ring.front() == Some(room) {
            self.leave_ring();
        }
    }

    /// What is queued of a room, which waits no more.
    pub fn take(&mut self, room: &RoomName) -> Vec<T> {
        let Some(lane) = self.lanes.get_mut(room) else { return Vec::new() };
        self.bytes -= lane.queue.iter().map(|queued| queued.bytes).sum::<usize>();
        std::mem::take(&mut lane.queue).into_iter().map(|queued| queued.item).collect()
    }

    /// Nothing of the room is to be sent any more.
    pub fn forget(&mut self, room: &RoomName) {
        if let Some(lane) = self.lanes.remove(room) {
            self.bytes -= lane.queue.iter().map(|queued| queued.bytes).sum::<usize>();
            self.ring.retain(|active| active != room);
        }
    }

    /// All that is queued, room by room, whatever the bandwidth.
    pub fn drain(&mut self) -> Vec<T> {
        let mut items = Vec::new();
        for room in std::mem::take(&mut self.ring) {
            items
                .extend(self.lanes.remove(&room).into_iter().flat_map(|lane| lane.queue).map(|one| one.item));
        }
        self.lanes.clear();
        (self.bytes, self.waiting) = (0, None);
        items
    }

    /// When [`next`](Self::next) is to be asked again, if it said so.
    #[must_use]
    pub fn waits_until(&self) -> Option<u64> {
        self.waiting
    }

    /// It is asked again.
    pub fn wake(&mut self, now: u64) {
        if self.waiting.is_some_and(|at| at <= now) {
            self.waiting = None;
        }
    }

    /// Bytes that are queued.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest that is queued was.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        self.ring.iter().filter_map(|room| Some(self.lanes.get(room)?.queue.front()?.at)).min()
    }
}
