use serde_json::value::RawValue;
use tickmesh_cluster::broker::inbox;
use tickmesh_cluster::broker::memory::{MemoryBroker, MemoryCluster};
use tickmesh_cluster::config::Config;
use tickmesh_market::tick::Figures;
use tickmesh_protocol::market::Symbol;
use tickmesh_protocol::message::Publish;
use tickmesh_protocol::position::Epoch;
use tickmesh_protocol::room::{Class, Classes};
use tickmesh_store::series::RoomRows;

use super::*;

fn message(seq: u64) -> Arc<Message> {
    let data = RawValue::from_string("{}".into()).unwrap();
    Arc::new(Message { seq, timestamp: seq, accepted_at: 0, event: "q".into(), key: None, data, trace: None })
}

fn row(epoch: &str, seq: u64) -> Row {
    Row { at: seq, epoch: Epoch::new(epoch), figures: Figures::default(), message: message(seq) }
}

fn history(seqs: std::ops::Range<u64>, began_at: u64) -> History {
    let position = Position { epoch: Epoch::new("now"), seq: seqs.end - 1 };
    History { position, messages: seqs.map(message).collect(), complete: true, began_at }
}

/// Numbers, whether there is a hole, whether there are strange ones.
fn joined(rows: Vec<Row>, history: &History, start: u64) -> (Vec<u64>, bool, bool) {
    let joined = join(rows, first(history), history, start);
    (joined.rows.iter().map(|(_, message)| message.seq).collect(), joined.hole, joined.strange)
}

#[test]
fn rows_lead_up_to_the_log() {
    let rows = |range: std::ops::Range<u64>| range.map(|seq| row("now", seq)).collect::<Vec<_>>();
    assert_eq!(joined(rows(3..8), &history(8..10, 0), 0), ((3..8).collect(), false, false));
    assert_eq!(joined(rows(3..12), &history(8..10, 0), 0), ((3..8).collect(), false, false));
    // A hole: what is beyond it does not count.
    let mut holed = rows(3..8);
    holed.remove(1);
    assert_eq!(joined(holed, &history(8..10, 0), 0), (vec![5, 6, 7], true, false));
    assert_eq!(joined(rows(3..6), &history(8..10, 0), 0), (vec![], true, false));
    assert_eq!(joined(vec![], &history(1..3, 0), 0), (vec![], false, false));
}

#[test]
fn other_lives_of_the_log_count_as_far_as_it_kept_them() {
    let rows = vec![row("old", 4), row("old", 5), row("now", 5), row("old", 6), row("now", 6)];
    assert_eq!(joined(rows.clone(), &history(7..9, 4), 0), (vec![4, 5, 6], false, true));
    assert_eq!(joined(rows.clone(), &history(7..9, 0), 0), (vec![5, 6], false, true));
    assert_eq!(
        joined(rows, &history(7..9, 0), 7),
        (vec![5, 6], false, false),
        "older than what was asked for"
    );
}

/// A broker and a store, and a room that nobody records but the test.
struct Room {
    broker: MemoryBroker,
    stores: Stores,
    name: RoomName,
}

/// What a client gets: numbers of `backfill` and of `messages`, and `backfill_complete`.
type Got = (Vec<u64>, Vec<u64>, bool);

impl Room {
    fn new(history_size: usize) -> Self {
        Self::keeping(history_size, 32 << 20)
    }

    /// With a store of so many bytes.
    fn keeping(history_size: usize, tick_bytes: usize) -> Self {
        let mut config = Config::node_defaults();
        config.stores.memory_tick_bytes = tick_bytes;
        let class = Class { history_size, ..Class::default() };
        let cluster = MemoryCluster::new(Classes::new(vec![class]), Arc::new(|| 0));
        let (inbox, _events) = inbox(1);
        let stores = Stores::memory(&config);
        Self { broker: cluster.connect(inbox), stores, name: RoomName::new("market_S").unwrap() }
    }

    /// Publishes ticks with these times of their own; answers with the log's epoch.
    async fn publish(&self, ats: impl IntoIterator<Item = u64>) -> Epoch {
        let publish = |at| Publish {
            room: self.name.clone(),
            event: "q".into(),
            data: RawValue::from_string(format!(r#"{{"ts":{at}}}"#)).unwrap(),
            message_id: None,
            key: None,
            timestamp: None,
            trace: None,
        };
        let answers = self.broker.publish(ats.into_iter().map(publish).collect()).await;
        answers.last().unwrap().as_ref().unwrap().epoch.clone()
    }

    /// Puts rows with these times and numbers into the store.
    async fn record(&self, epoch: &Epoch, rows: impl IntoIterator<Item = (u64, u64)>, data: &str) {
        let row = |(at, seq)| Row {
            at,
            epoch: epoch.clone(),
            figures: Figures::default(),
            message: Arc::new(Message {
                seq,
                timestamp: at,
                accepted_at: 0,
                event: "q".into(),
                key: None,
                data: RawValue::from_string(data.into()).unwrap(),
                trace: None,
            }),
        };
        let rows = RoomRows {
            room: self.name.clone(),
            symbol: Symbol::new("S").unwrap(),
            exchange: String::new(),
            rows: rows.into_iter().map(row).collect(),
        };
        let series = self.stores.series.as_ref().unwrap();
        series.call(|series| series.append(std::slice::from_ref(&rows))).await.unwrap();
    }

    async fn get(&self, replay: Replay, start: u64, limit: usize) -> Got {
        let backfill = Backfill { start, limit };
        let stitched = stitch(&self.broker, &self.stores, &self.name, replay, backfill).await.unwrap();
        let seqs = |messages: &[Arc<Message>]| messages.iter().map(|message| message.seq).collect::<Vec<_>>();
        let (older, messages) = (seqs(&stitched.older), seqs(&stitched.history.messages));
        let all: Vec<u64> = older.iter().chain(&messages).copied().collect();
        assert!(all.is_sorted_by(|a, b| a + 1 == *b), "one by one: {all:?}");
        assert!(all.last().is_none_or(|last| *last == stitched.history.position.seq));
        (older, messages, stitched.complete)
    }
}

fn seqs(range: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    range.collect()
}

/// Those with these numbers, a second from one to the next.
fn ticks(range: std::ops::RangeInclusive<u64>) -> impl Iterator<Item = (u64, u64)> {
    range.map(|seq| (1_000 * seq, seq))
}

fn times(range: std::ops::RangeInclusive<u64>) -> impl Iterator<Item = u64> {
    range.map(|seq| 1_000 * seq)
}

#[tokio::test]
async fn who_recovers_gets_nothing_twice_from_a_store_that_is_behind() {
    let room = Room::new(1_000);
    let epoch = room.publish(times(1..=100)).await;
    room.record(&epoch, ticks(1..=30), "{}").await;
    let recover = || Replay::After(Position { epoch: epoch.clone(), seq: 41 });
    assert_eq!(room.get(recover(), 0, 10_000).await, (seqs(1..=41), seqs(42..=100), true));
    assert_eq!(room.get(recover(), 0, 5).await, (seqs(37..=41), seqs(42..=100), false));
    assert_eq!(room.get(recover(), 0, 20).await, (seqs(22..=41), seqs(42..=100), false));
    assert_eq!(room.get(recover(), 20_000, 10_000).await, (seqs(20..=41), seqs(42..=100), true));
    assert_eq!(room.get(recover(), 35_000, 10_000).await, (seqs(35..=41), seqs(42..=100), true));
    // What the client named comes whatever its time.
    assert_eq!(room.get(recover(), 50_000, 10_000).await, (vec![], seqs(42..=100), true));
    assert_eq!(room.get(Replay::Last(7), 0, 3).await, (seqs(91..=93), seqs(94..=100), false));
}

#[tokio::test]
async fn a_room_that_is_not_recorded_obeys_the_limit() {
    let room = Room::new(1_000);
    room.publish(times(1..=500)).await;
    let get = async |start, limit| room.get(Replay::Nothing, start, limit).await;
    assert_eq!(get(0, 2).await, (seqs(497..=498), seqs(499..=500), false));
    assert_eq!(get(0, 10_000).await, (vec![], seqs(1..=500), true));
    assert_eq!(get(0, 400).await, (seqs(1..=100), seqs(101..=500), true));
    assert_eq!(get(499_000, 2).await, (vec![], seqs(499..=500), true));
    assert_eq!(get(498_000, 2).await, (seqs(498..=498), seqs(499..=500), true));
    assert_eq!(get(500_000, 2).await, (vec![], vec![500], true));
    assert_eq!(get(501_000, 2).await, (vec![], vec![], true), "newer than everything");
    assert_eq!(room.get(Replay::Last(3), 501_000, 2).await, (vec![], seqs(498..=500), true));

    // The log has let go of some, and nobody else has them.
    let room = Room::new(100);
    room.publish(times(1..=500)).await;
    let get = async |start, limit| room.get(Replay::Nothing, start, limit).await;
    assert_eq!(get(0, 10_000).await, (vec![], seqs(401..=500), false));
    assert_eq!(get(450_000, 10_000).await, (vec![], seqs(450..=500), true));
    assert_eq!(get(501_000, 10_000).await, (vec![], vec![], true));
}

#[tokio::test]
async fn late_ticks_in_the_middle_end_nothing() {
    let room = Room::new(100);
    let at = |seq| match seq {
        900 => 1,
        950 => 2,
        seq => 1_000 * seq,
    };
    let epoch = room.publish((1..=1_000).map(at)).await;
    room.record(&epoch, (1..=1_000).map(|seq| (at(seq), seq)), "{}").await;
    for (start, begin) in [(0, 1), (3_000, 3), (100_000, 100), (897_000, 897), (2_000, 2)] {
        let (older, messages, complete) = room.get(Replay::Nothing, start, 10_000).await;
        assert_eq!((older, messages), (seqs(begin..=900), seqs(901..=1_000)), "{start}");
        assert!(complete, "{start}");
    }
    // The log's own late one.
    assert_eq!(room.get(Replay::Nothing, 940_000, 10_000).await, (vec![], seqs(940..=1_000), true));
    let (older, messages, complete) = room.get(Replay::Nothing, 100_000, 200).await;
    assert_eq!((older, messages, complete), (seqs(701..=900), seqs(901..=1_000), false));

    // One that says that it is of tomorrow is not older, and so nothing after it is at the beginning.
    let room = Room::new(100);
    let at = |seq| if seq == 150 { 5_000_000 } else { 1_000 * seq };
    let epoch = room.publish((1..=300).map(at)).await;
    room.record(&epoch, (1..=300).map(|seq| (at(seq), seq)), "{}").await;
    assert_eq!(room.get(Replay::Nothing, 170_000, 10_000).await, (seqs(150..=200), seqs(201..=300), true));
}

#[tokio::test]
async fn what_was_lost_in_between_is_told() {
    let room = Room::new(100);
    let epoch = room.publish(times(1..=500)).await;
    room.record(&epoch, ticks(1..=200).chain(ticks(251..=500)), "{}").await;
    let get = async |start| room.get(Replay::Nothing, start, 10_000).await;
    assert_eq!(get(0).await, (seqs(251..=400), seqs(401..=500), false));
    assert_eq!(get(150_000).await, (seqs(251..=400), seqs(401..=500), false));
    assert_eq!(get(300_000).await, (seqs(300..=400), seqs(401..=500), true));
    // What its retention has ended for, the store does not owe.
    let room = Room::new(100);
    let epoch = room.publish(times(1..=500)).await;
    room.record(&epoch, ticks(201..=500), "{}").await;
    assert_eq!(room.get(Replay::Nothing, 0, 10_000).await, (seqs(201..=400), seqs(401..=500), true));
}

#[tokio::test]
async fn what_a_store_in_memory_evicted_is_before_what_it_has() {
    let room = Room::keeping(100, 1 << 20);
    // One of a hundred is late, and an early one says that it is of tomorrow.
    let at = |seq| match seq {
        25 => 100_000_000,
        seq if seq % 100 == 50 => 1_000 * (seq - 30),
        seq => 1_000 * seq,
    };
    let epoch = room.publish((1..=30_000).map(at)).await;
    let data = format!("\"{}\"", "x".repeat(98));
    room.record(&epoch, (1..=30_000).map(|seq| (at(seq), seq)), &data).await;
    let (older, messages, complete) = room.get(Replay::Nothing, 0, 29_900).await;
    let first = older[0];
    assert!((15_000..29_000).contains(&first), "{first}");
    assert_eq!((older, messages), (seqs(first..=29_900), seqs(29_901..=30_000)), "without a gap");
    assert!(complete, "what its retention has ended for, the store does not owe");
    let (older, _, complete) = room.get(Replay::Nothing, 29_500_000, 10_000).await;
    assert_eq!((older, complete), (seqs(29_500..=29_900), true));
}

#[tokio::test]
async fn earlier_lives_of_the_log_are_not_there_and_it_is_told() {
    // A log that was lost: the store has a long life before it, of higher numbers.
    let room = Room::new(100);
    room.record(&Epoch::new("before"), ticks(1..=700), "{}").await;
    let get = async |start| room.get(Replay::Nothing, start, 10_000).await;
    assert_eq!(get(0).await, (vec![], vec![], false), "before anything is published");
    let epoch = room.publish(times(701..=750)).await;
    assert_eq!(get(0).await, (vec![], seqs(1..=50), false));
    // Those of lower numbers are older than this, those of higher ones are not.
    assert_eq!(get(600_000).await, (vec![], seqs(1..=50), false));
    assert_eq!(get(701_000).await, (vec![], seqs(1..=50), true));
    assert_eq!(get(711_000).await, (vec![], seqs(11..=50), true));
    room.record(&epoch, times(701..=750).zip(1..), "{}").await;
    assert_eq!(get(600_000).await, (vec![], seqs(1..=50), false));
    assert_eq!(get(711_000).await, (vec![], seqs(11..=50), true));
    assert_eq!(room.get(Replay::Last(10), 600_000, 10_000).await, (seqs(1..=40), seqs(41..=50), false));
    assert_eq!(room.get(Replay::Last(10), 701_000, 10_000).await, (seqs(1..=40), seqs(41..=50), true));
}

#[tokio::test]
async fn large_rows_are_bounded_in_bytes() {
    let room = Room::new(10);
    let epoch = room.publish(times(1..=500)).await;
    let data = format!("\"{}\"", "x".repeat(31_998));
    room.record(&epoch, ticks(1..=500), &data).await;
    let (older, messages, complete) = room.get(Replay::Nothing, 0, 10_000).await;
    assert_eq!(messages, seqs(491..=500));
    assert!((250..263).contains(&older.len()), "{}", older.len());
    assert!(!complete);
    let (older, _, complete) = room.get(Replay::Nothing, 400_000, 10_000).await;
    assert_eq!((older, complete), (seqs(400..=490), true));
}
