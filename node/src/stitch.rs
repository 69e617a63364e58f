//! Rows of the time-series store, joined to a room's log without a gap and without a repetition.
//!
//! The store is asked first how far it has the room, then the log is read. Where the store is behind the messages that the
//! client gets anyway, what is between comes from the log too; then the rows before that are fetched. What the store got
//! meanwhile is in the log as well, and is not asked for. Invariants: sequence numbers rise by 1 from the first row to the last
//! message of the log; what was asked for and is not there is told; an answer is bounded in rows and in bytes.
//!
//! "Older than `start`" is said of a beginning: a late tick between newer ones is in its place.

use std::sync::Arc;

use tickmesh_cluster::broker::Broker;
use tickmesh_market::tick::Tick;
use tickmesh_protocol::error::Failure;
use tickmesh_protocol::market::Backfill;
use tickmesh_protocol::message::{History, Message, Replay};
use tickmesh_protocol::position::Position;
use tickmesh_protocol::room::RoomName;
use tickmesh_protocol::session::Stitched;
use tickmesh_store::Stores;
use tickmesh_store::guard::Guarded;
use tickmesh_store::series::{Row, Select, TimeSeries};

/// Messages of the log that come along though the store has them, where the client names no history.
const TAIL: usize = 1_000;
/// Bytes of what comes before the log's messages, at most.
const MOST_BYTES: usize = 8 << 20;
/// Bytes that a message has beside its data, when it is told.
const FRAME_BYTES: usize = 160;
/// Rows that are looked at to see whether the store has others than those of this log. Some may have come just now.
const OTHERS: usize = 16;

/// A message and its own time.
type Timed = (u64, Arc<Message>);

/// Does so.
///
/// # Errors
/// When the broker or the store is away, or there is none, or the room's log began anew meanwhile.
pub(crate) async fn stitch(
    broker: &dyn Broker,
    stores: &Stores,
    room: &RoomName,
    replay: Replay,
    backfill: Backfill,
) -> Result<Stitched, Failure> {
    let unavailable = || Failure::unavailable("no time-series store is configured");
    let series: &Guarded<Arc<dyn TimeSeries>> = stores.series_reads.as_deref().ok_or_else(unavailable)?;
    let Backfill { start, limit } = backfill;
    let stored = series.call(|series| series.position(room)).await?;
    let named = replay != Replay::Nothing;
    let replay = if named { replay } else { Replay::Last(limit.min(TAIL)) };
    let mut history = broker.history(room, replay).await?;
    let stored = stored.map_or(0, |stored| reach(&stored, &history));

    // One more than is wanted tells whether there are more.
    let wanted = limit + 1;
    let mut older = between(broker, room, &history, stored, wanted).await?;
    let next = older.first().map_or(first(&history), |(_, message)| message.seq);
    let mut joined = Joined::default();
    // Neither the log nor the store has what is between them.
    let mut missing = false;
    let space = wanted - older.len();
    if space > 0 && stored + 1 < next {
        missing = true;
    } else if space > 0 {
        let seqs = next.saturating_sub(space as u64).max(1)..next;
        let read = async |from| {
            let select = Select::Newest { seqs: seqs.clone(), from, limit: space, bytes: MOST_BYTES };
            series.call(|series| series.rows(room, &select)).await
        };
        joined = join(read(start).await?, next, &history, start);
        if joined.hole && start > 0 {
            // It may be a late tick that is missing: it is older than `start` and yet in its place.
            joined = join(read(0).await?, next, &history, start);
        }
    }
    let Joined { mut rows, hole, strange, cut } = joined;
    rows.append(&mut older);
    let mut older = rows;

    // Where there is something older than `start`, nothing before that was asked for.
    let mut ended = leave_out(&mut older, start, |(at, _)| *at);
    if older.is_empty() && named {
        ended |= history.messages.first().is_some_and(|message| Tick::read(message).at < start);
    } else if older.is_empty() {
        ended |= leave_out(&mut history.messages, start, |message| Tick::read(message).at);
    }
    let more = newest(&mut older, limit, MOST_BYTES);
    let complete = !more
        && !strange
        && (ended || !missing && !hole && !cut && !has_others(series, room, &older, &history, start).await?);
    let older = older.into_iter().map(|(_, message)| message).collect();
    Ok(Stitched { older, complete, history })
}

/// The sequence number of the first message, or of the next one where there are none.
fn first(history: &History) -> u64 {
    history.messages.first().map_or(history.position.seq + 1, |first| first.seq)
}

/// How far the store has the log's present life.
fn reach(stored: &Position, history: &History) -> u64 {
    if stored.epoch == history.position.epoch { stored.seq } else { stored.seq.min(history.began_at) }
}

/// What the log has before the messages that were read and the store has not yet; the newest so many.
async fn between(
    broker: &dyn Broker,
    room: &RoomName,
    history: &History,
    stored: u64,
    most: usize,
) -> Result<Vec<Timed>, Failure> {
    let end = first(history);
    let after = stored.max((end - 1).saturating_sub(most as u64));
    let count = (end - 1).saturating_sub(after) as usize;
    if count == 0 {
        return Ok(Vec::new());
    }
    let part = broker.history(room, Replay::Since { seq: after, limit: count }).await?;
    if part.position.epoch != history.position.epoch {
        return Err(Failure::unavailable("the room's log began anew while it was read"));
    }
    let mut messages = part.messages;
    messages.retain(|message| message.seq < end);
    // The log may have let go of some since.
    if messages.last().is_none_or(|last| last.seq + 1 < end) {
        messages.clear();
    }
    Ok(messages.into_iter().map(|message| (Tick::read(&message).at, message)).collect())
}

/// Rows that lead up to a sequence number one by one.
#[derive(Debug, Default)]
struct Joined {
    rows: Vec<Timed>,
    /// There are more before a number that is missing.
    hole: bool,
    /// There are some that are not older than `start`, of a life of the log that this one did not keep.
    strange: bool,
    /// More would have been too many bytes.
    cut: bool,
}

/// Rows are in order of sequence number, and within one in order of time.
fn join(rows: Vec<Row>, mut next: u64, history: &History, start: u64) -> Joined {
    let bytes: usize = rows.iter().map(|row| row.message.data.get().len()).sum();
    let mut joined = Joined { cut: bytes > MOST_BYTES, ..Joined::default() };
    for row in rows.into_iter().rev() {
        let seq = row.message.seq;
        if row.epoch != history.position.epoch && seq > history.began_at {
            joined.strange |= row.at >= start;
        } else if seq + 1 < next {
            joined.hole = true;
            break;
        } else if seq < next {
            // Of two rows with one number the newer counts.
            next = seq;
            joined.rows.push((row.at, row.message));
        }
    }
    joined.rows.reverse();
    joined
}

/// Leaves out what is older than `start` at the beginning; whether there was something.
fn leave_out<T>(items: &mut Vec<T>, start: u64, at: impl Fn(&T) -> u64) -> bool {
    let count = items.iter().position(|item| at(item) >= start).unwrap_or(items.len());
    items.drain(..count);
    count > 0
}

/// Leaves the newest, so many and of so many bytes; whether there were more.
fn newest(items: &mut Vec<Timed>, limit: usize, bytes: usize) -> bool {
    let mut left = bytes;
    let fits = |(_, message): &&Timed| {
        let rest = left.checked_sub(message.data.get().len() + message.event.len() + FRAME_BYTES);
        left = rest.unwrap_or(0);
        rest.is_some()
    };
    let count = items.iter().rev().take(limit).take_while(fits).count();
    let more = items.len() > count;
    items.drain(..items.len() - count);
    more
}

/// Whether the store has rows that were asked for and are before all these: of lives of the log that this one knows nothing
/// of, whatever numbers they have.
async fn has_others(
    series: &Guarded<Arc<dyn TimeSeries>>,
    room: &RoomName,
    older: &[Timed],
    history: &History,
    start: u64,
) -> Result<bool, Failure> {
    let from = older.first().map_or(first(history), |(_, message)| message.seq);
    let ats = older.iter().map(|(at, _)| *at);
    let ats = ats.chain(history.messages.iter().map(|message| Tick::read(message).at));
    let span = start..ats.min().unwrap_or(u64::MAX);
    if span.is_empty() {
        return Ok(false);
    }
    let select = Select::Last { span, limit: OTHERS, bytes: MOST_BYTES };
    let found = series.call(|series| series.rows(room, &select)).await?;
    // What came just now may say of itself that it is old.
    let known = |row: &Row| row.epoch == history.position.epoch && row.message.seq >= from;
    Ok(!found.iter().all(known))
}

#[cfg(test)]
mod tests;
