use super::*;
use crate::broker::{inbox, suite};

struct Factory {
    cluster: Arc<MemoryCluster>,
}

#[async_trait]
impl suite::Nodes for Factory {
    async fn node(&self, capacity: usize) -> (Arc<dyn Broker>, crate::broker::Events) {
        let (inbox, events) = inbox(capacity);
        (Arc::new(self.cluster.connect(inbox)), events)
    }
}

#[tokio::test]
async fn conformance() {
    let clock = Arc::new(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_millis().try_into().unwrap());
    let cluster = MemoryCluster::new(suite::classes(), clock);
    suite::run(&Factory { cluster }).await;
}

#[tokio::test]
async fn logs_are_shorter_while_memory_is_short_and_say_so() {
    let cluster = MemoryCluster::new(Classes::default(), Arc::new(|| 1_000_000));
    let (tx, _events) = inbox(10_000);
    let broker = cluster.connect(tx);
    let room = RoomName::new("a").unwrap();
    let publish = async |count| {
        let messages = (0..count).map(|_| suite::publish("a", "1", None)).collect();
        broker.publish(messages).await.pop().unwrap().unwrap()
    };
    let first = publish(1).await;
    publish(999).await;
    let held = async || broker.history(&room, Replay::Last(2_000)).await.unwrap().messages.len();
    assert_eq!(held().await, 1_000);
    cluster.set_pressure(2);
    assert_eq!(held().await, 250);
    publish(10).await;
    assert_eq!(held().await, 250);
    let missed = broker.history(&room, Replay::After(first)).await.unwrap();
    assert!(!missed.complete && missed.messages.len() == 250);
    cluster.set_pressure(0);
    publish(10).await;
    assert_eq!(held().await, 260);
    let (before, _) = cluster.bytes();
    cluster.halve();
    assert_eq!(held().await, 130);
    let (after, _) = cluster.bytes();
    assert!(after < before / 3 * 2, "{after} of {before}");
}

#[tokio::test]
async fn what_is_out_of_date_goes_when_asked_for() {
    let time = Arc::new(AtomicU64::new(1_000_000));
    let seen = time.clone();
    let cluster = MemoryCluster::new(Classes::default(), Arc::new(move || seen.load(Ordering::Relaxed)));
    let (tx, _events) = inbox(10);
    let broker = cluster.connect(tx);
    broker.publish(vec![suite::publish("a", "1", None)]).await;
    broker.subscribe(&RoomName::new("a").unwrap()).await.unwrap();
    time.fetch_add(4_000_000, Ordering::Relaxed);
    cluster.sweep_now();
    let room = cluster.room(&RoomName::new("a").unwrap());
    assert!(room.lock().log.is_empty(), "though the room is followed");
}

#[tokio::test]
async fn rooms_that_nobody_uses_are_forgotten_and_come_back_with_a_new_epoch() {
    let time = Arc::new(AtomicU64::new(1_000_000));
    let clock = {
        let time = time.clone();
        Arc::new(move || time.load(Ordering::Relaxed))
    };
    let cluster = MemoryCluster::new(Classes::default(), clock);
    let (tx, _events) = inbox(10);
    let broker = cluster.connect(tx);
    let publish = |room: &str| suite::publish(room, "1", None);
    let before = broker.publish(vec![publish("a")]).await.remove(0).unwrap();
    let followed = RoomName::new("b").unwrap();
    broker.subscribe(&followed).await.unwrap();
    time.fetch_add(4_000_000, Ordering::Relaxed);
    broker.publish(vec![publish("c")]).await.remove(0).unwrap();
    let mut names: Vec<_> =
        broker.rooms().await.unwrap().into_iter().map(|(name, _)| name.to_string()).collect();
    names.sort();
    assert_eq!(names, ["b", "c"]);
    let after = broker.publish(vec![publish("a")]).await.remove(0).unwrap();
    assert_ne!(before.epoch, after.epoch);
    assert_eq!(after.seq, 1);
}

impl MemoryCluster {
    /// What is held, added up anew.
    fn recount(&self) -> usize {
        self.rooms.read().values().map(|room| room.lock().bytes()).sum()
    }
}

#[tokio::test]
async fn all_logs_together_are_bounded_in_bytes_and_the_busy_ones_give_up_theirs() {
    const MOST: usize = 2 << 20;
    let cluster = MemoryCluster::bounded(Classes::default(), Arc::new(|| 1_000_000), MOST);
    let (tx, _events) = inbox(10);
    let broker = cluster.connect(tx);
    let data = format!("\"{}\"", "x".repeat(1_000));
    let mut n = 0_u64;
    let mut publish = async |room: &str| {
        n += 1;
        let id = format!("id-{n}");
        let position = broker.publish(vec![suite::publish(room, &data, Some(&id))]).await.remove(0).unwrap();
        assert!(cluster.bytes().0 <= MOST, "{:?}", cluster.bytes());
        position
    };
    for round in 0..2_000 {
        for busy in ["busy1", "busy2", "busy3"] {
            publish(busy).await;
        }
        if round % 100 == 0 {
            publish("quiet").await;
        }
    }
    assert_eq!(cluster.bytes().0, cluster.recount());
    assert!(cluster.bytes().0 > MOST / 2, "the bound is made use of: {:?}", cluster.bytes());
    let read =
        async |room: &str, replay| broker.history(&RoomName::new(room).unwrap(), replay).await.unwrap();
    assert_eq!(read("quiet", Replay::Last(1_000)).await.messages.len(), 20, "it has all");
    for busy in ["busy1", "busy2", "busy3"] {
        let history = read(busy, Replay::Last(1_000)).await;
        let seqs: Vec<_> = history.messages.iter().map(|message| message.seq).collect();
        assert!(seqs.len() > 100 && seqs.len() < 1_000, "{}", seqs.len());
        assert_eq!(
            seqs,
            (2_001 - seqs.len() as u64..=2_000).collect::<Vec<_>>(),
            "the newest, without holes"
        );
        let epoch = history.position.epoch.clone();
        let missed = read(busy, Replay::After(Position { epoch, seq: 1 })).await;
        assert!(!missed.complete, "what went is told");
    }
    // What was published last is still known.
    let again = broker.publish(vec![suite::publish("busy3", "1", Some("id-6020"))]).await.remove(0).unwrap();
    assert_eq!(again.seq, 2_000);
    let [messages, _] = cluster.evicted();
    assert!(messages > 1_000, "{messages}");
}

#[tokio::test]
async fn ids_alone_do_not_outgrow_the_bound() {
    const MOST: usize = 1 << 20;
    let cluster = MemoryCluster::bounded(Classes::default(), Arc::new(|| 1_000_000), MOST);
    let (tx, _events) = inbox(10);
    let broker = cluster.connect(tx);
    for n in 0..20_000 {
        let id = format!("{n:0100}");
        broker.publish(vec![suite::publish("a", "1", Some(&id))]).await.remove(0).unwrap();
        assert!(cluster.bytes().0 <= MOST, "{:?}", cluster.bytes());
    }
    assert_eq!(cluster.bytes().0, cluster.recount());
    let held = broker.history(&RoomName::new("a").unwrap(), Replay::Last(1_000)).await.unwrap();
    assert!(held.messages.len() > 500, "the log keeps its part: {}", held.messages.len());
    let id = format!("{:0100}", 19_000);
    let again = broker.publish(vec![suite::publish("a", "1", Some(&id))]).await.remove(0).unwrap();
    assert_eq!(again.seq, 19_001, "known again");
}

#[tokio::test]
async fn rooms_that_are_asked_for_and_never_used_do_not_pile_up() {
    const MOST: usize = 1 << 20;
    let time = Arc::new(AtomicU64::new(1_000_000));
    let clock = time.clone();
    let cluster =
        MemoryCluster::bounded(Classes::default(), Arc::new(move || clock.load(Ordering::Relaxed)), MOST);
    let (tx, _events) = inbox(10);
    let broker = cluster.connect(tx);
    let followed = RoomName::new("followed").unwrap();
    let before = broker.subscribe(&followed).await.unwrap();
    for n in 0..20_000 {
        time.fetch_add(1, Ordering::Relaxed);
        let room = RoomName::new(&format!("room{n}")).unwrap();
        broker.history(&room, Replay::Last(1)).await.unwrap();
        assert!(cluster.bytes().0 <= MOST, "{:?}", cluster.bytes());
    }
    assert_eq!(cluster.bytes().0, cluster.recount());
    let names = broker.rooms().await.unwrap();
    assert!(names.len() > 500 && names.len() < 20_000, "{}", names.len());
    assert!(names.iter().any(|(name, _)| name.as_str() == "room19999"), "the last one stays");
    assert_eq!(broker.subscribe(&followed).await.unwrap(), before, "and the one that is followed");
}

#[tokio::test]
async fn what_a_room_held_is_given_back_when_its_time_is_over() {
    let time = Arc::new(AtomicU64::new(1_000_000));
    let clock = time.clone();
    let cluster = MemoryCluster::new(Classes::default(), Arc::new(move || clock.load(Ordering::Relaxed)));
    let (tx, _events) = inbox(10);
    let broker = cluster.connect(tx);
    for n in 0..2_000 {
        broker.publish(vec![suite::publish("a", "1", Some(&format!("id{n}")))]).await;
    }
    let (full, _) = cluster.bytes();
    assert!(full > 200_000, "{full}");
    // Somebody follows it, so that it is not forgotten.
    broker.subscribe(&RoomName::new("a").unwrap()).await.unwrap();
    time.fetch_add(4_000_000, Ordering::Relaxed);
    cluster.sweep_now();
    assert_eq!(cluster.bytes().0, cluster.recount());
    assert!(cluster.bytes().0 < 1_500, "{:?}", cluster.bytes());
    // Nobody does: then nothing is left.
    broker.unsubscribe(&RoomName::new("a").unwrap()).await;
    time.fetch_add(4_000_000, Ordering::Relaxed);
    cluster.sweep_now();
    assert_eq!(cluster.bytes().0, 0);
}

#[tokio::test]
async fn rooms_that_are_followed_stay_whatever_the_bound_is() {
    const MOST: usize = 1 << 20;
    let cluster = MemoryCluster::bounded(Classes::default(), Arc::new(|| 1_000_000), MOST);
    let (tx, _events) = inbox(10_000);
    let broker = cluster.connect(tx);
    let name = |n: u64| RoomName::new(&format!("room{n}")).unwrap();
    for n in 0..3_000 {
        let followed = broker.subscribe(&name(n)).await.unwrap();
        let published =
            broker.publish(vec![suite::publish(&format!("room{n}"), "1", None)]).await.remove(0).unwrap();
        assert_eq!(published.epoch, followed.epoch);
    }
    assert_eq!(cluster.bytes().0, cluster.recount());
    for n in 0..3_000 {
        let history = broker.history(&name(n), Replay::Last(10)).await.unwrap();
        assert_eq!(history.messages.len(), 1, "room{n}");
    }
}
