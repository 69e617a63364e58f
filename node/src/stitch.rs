//! Rows of the time-series store, joined to a room's log without a gap and without a repetition.
//!
//! The store is asked first how far it has the room, then the log is read so that it reaches down to there, and then the rows
//! before that are fetched: what the store got meanwhile is in the log as well, and is not asked for. Invariant: sequence
//! numbers rise by 1 from the first row to the last message of the log, or the answer says that something is missing.

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
use tickmesh_store::series::{Row, Select};

/// Messages of the log that come along though the store has them, where the client names no history.
const TAIL: usize = 1_000;

/// Does so.
///
/// # Errors
/// When the broker or the store is away, or there is none.
pub(crate) async fn stitch(
    broker: &dyn Broker,
    stores: &Stores,
    room: &RoomName,
    replay: Replay,
    backfill: Backfill,
) -> Result<Stitched, Failure> {
    let unavailable = || Failure::unavailable("no time-series store is configured");
    let series = stores.series.as_ref().ok_or_else(unavailable)?;
    let Backfill { start, limit } = backfill;
    let stored = series.call(|series| series.position(room)).await?;
    let named = replay != Replay::Nothing;
    let replay = if named { replay } else { Replay::Last(limit.min(TAIL)) };
    let mut history = broker.history(room, replay).await?;
    let stored = stored.map_or(0, |stored| reach(&stored, &history));
    if stored + 1 < first(&history) {
        // The store is behind: what it lacks comes from the log.
        let from = Position { epoch: history.position.epoch.clone(), seq: stored };
        let complete = history.complete;
        history = broker.history(room, Replay::After(from)).await?;
        // What was said of the position that the client named stays true.
        history.complete = complete;
    }
    if !named {
        let wanted = |message: &Arc<Message>| Tick::read(message).at >= start;
        let skip = history.messages.iter().position(wanted).unwrap_or(history.messages.len());
        history.messages.drain(..skip);
    }
    let before = first(&history);
    // One more than is wanted tells whether there are more.
    let lowest = before.saturating_sub(limit as u64 + 1).max(1);
    let select = Select::Seqs { seqs: lowest..before, from: start };
    let rows = series.call(|series| series.rows(room, &select)).await?;
    let (older, complete) = join(rows, &history, limit);
    // Neither has what is between them.
    let complete = complete && (stored + 1 >= before || stored == 0 && before == 1);
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

/// The rows that lead up to the first message one by one, at most so many; and whether that is all of them. Rows are in order
/// of sequence number, and within one in order of time.
fn join(rows: Vec<Row>, history: &History, limit: usize) -> (Vec<Arc<Message>>, bool) {
    let mut next = first(history);
    let mut older = Vec::with_capacity(rows.len().min(limit));
    let mut rest = rows.into_iter().rev().peekable();
    while let Some(row) = rest.peek() {
        let seq = row.message.seq;
        // Of another life of the log, and not kept in this one.
        let strange = row.epoch != history.position.epoch && seq > history.began_at;
        if seq >= next || strange {
            // Of two rows with one number the newer counts.
            rest.next();
            continue;
        }
        if seq + 1 < next || older.len() == limit {
            break;
        }
        next = seq;
        older.extend(rest.next().map(|row| row.message));
    }
    let complete = rest.peek().is_none();
    older.reverse();
    (older, complete)
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;
    use tickmesh_market::tick::Figures;
    use tickmesh_protocol::position::Epoch;

    use super::*;

    fn message(seq: u64) -> Arc<Message> {
        let data = RawValue::from_string("{}".into()).unwrap();
        Arc::new(Message { seq, timestamp: seq, accepted_at: 0, event: "q".into(), key: None, data })
    }

    fn row(epoch: &str, seq: u64) -> Row {
        Row { at: seq, epoch: Epoch::new(epoch), figures: Figures::default(), message: message(seq) }
    }

    fn history(seqs: std::ops::Range<u64>, began_at: u64) -> History {
        let position = Position { epoch: Epoch::new("now"), seq: seqs.end - 1 };
        History { position, messages: seqs.map(message).collect(), complete: true, began_at }
    }

    fn joined(rows: Vec<Row>, history: &History, limit: usize) -> (Vec<u64>, bool) {
        let (older, complete) = join(rows, history, limit);
        (older.iter().map(|message| message.seq).collect(), complete)
    }

    #[test]
    fn rows_lead_up_to_the_log() {
        let rows = |range: std::ops::Range<u64>| range.map(|seq| row("now", seq)).collect::<Vec<_>>();
        assert_eq!(joined(rows(3..8), &history(8..10, 0), 100), ((3..8).collect(), true));
        assert_eq!(joined(rows(3..12), &history(8..10, 0), 100), ((3..8).collect(), true));
        assert_eq!(joined(rows(2..8), &history(8..10, 0), 5), ((3..8).collect(), false));
        // A hole: what is beyond it does not count.
        let mut holed = rows(3..8);
        holed.remove(1);
        assert_eq!(joined(holed, &history(8..10, 0), 100), (vec![5, 6, 7], false));
        assert_eq!(joined(rows(3..6), &history(8..10, 0), 100), (vec![], false));
        assert_eq!(joined(vec![], &history(1..3, 0), 100), (vec![], true));
    }

    #[test]
    fn other_lives_of_the_log_count_as_far_as_it_kept_them() {
        let rows = vec![row("old", 4), row("old", 5), row("now", 5), row("old", 6), row("now", 6)];
        assert_eq!(joined(rows.clone(), &history(7..9, 4), 100), (vec![4, 5, 6], true));
        assert_eq!(joined(rows, &history(7..9, 0), 100), (vec![5, 6], true));
    }
}
