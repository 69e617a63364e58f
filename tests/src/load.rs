//! Publishers and subscribers that go on whatever happens to the cluster, and the account of it at the end.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::{Client, DEADLINE, Followed, eventually};

/// A running load.
pub struct Load {
    rooms: Vec<String>,
    addresses: Vec<SocketAddr>,
    publishers: JoinSet<Published>,
    subscribers: JoinSet<(String, Followed)>,
    /// Publishes that were acknowledged so far.
    kept: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
}

/// The size of a load: what the environment says, for runs by hand, or the given one.
#[must_use]
pub fn size(variable: &str, usual: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// What one publisher did.
#[derive(Debug, Default)]
struct Published {
    /// Room and text of each message that was acknowledged.
    kept: Vec<(usize, String)>,
    refused: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Account {
    /// Publishes that were acknowledged, over all rooms.
    pub kept: usize,
    /// Publishes that were refused.
    pub refused: u64,
    /// Times that a subscriber was told that a room's log restarted.
    pub resyncs: u64,
    /// Acknowledged messages that a subscriber did not get; each of them had a `resync` in that room.
    pub missed: usize,
}

impl Load {
    /// Begins: `publishers` write into all rooms in turn, without a pause if `pause` is zero; each of the `subscribers`
    /// follows one room. They are spread over the nodes.
    pub async fn start(
        addresses: &[SocketAddr],
        rooms: usize,
        publishers: usize,
        subscribers: usize,
        pause: Duration,
    ) -> Self {
        let rooms: Vec<String> = (0..rooms).map(|n| format!("market_load{n}")).collect();
        let (stop, stopped) = watch::channel(false);
        let mut load = Self {
            rooms: rooms.clone(),
            addresses: addresses.to_vec(),
            publishers: JoinSet::new(),
            subscribers: JoinSet::new(),
            kept: Arc::default(),
            stop,
        };
        for n in 0..subscribers {
            let mut client = Client::connect(addresses[n % addresses.len()], "").await;
            let room = rooms[n % rooms.len()].clone();
            client.subscribe(&room, json!({})).await;
            load.subscribers.spawn(async move {
                client.read_to_end(&room).await;
                let followed = client.room(&room);
                (room, followed)
            });
        }
        for p in 0..publishers {
            let client = Client::connect(addresses[p % addresses.len()], "").await;
            load.publishers.spawn(publish(
                client,
                p,
                rooms.clone(),
                stopped.clone(),
                pause,
                load.kept.clone(),
            ));
        }
        load
    }

    /// Waits until so many more messages are acknowledged.
    ///
    /// # Panics
    /// When they are not within [`DEADLINE`].
    pub async fn goes_on(&self, messages: usize) {
        let until = self.kept.load(Ordering::Relaxed) + messages;
        eventually("messages are acknowledged", || async { self.kept.load(Ordering::Relaxed) >= until })
            .await;
    }

    /// Ends the publishing, writes a last message into each room, waits until every subscriber has it, and checks: every
    /// acknowledged message came once to every subscriber of its room, or the room announced a `resync`; and those of one
    /// log have the same data everywhere.
    ///
    /// # Panics
    /// When something was lost without a word, doubled, or is not the same everywhere.
    pub async fn finish(mut self) -> Account {
        let _ = self.stop.send(true);
        let mut account = Account::default();
        let mut kept: Vec<HashSet<String>> = vec![HashSet::new(); self.rooms.len()];
        while let Some(published) = self.publishers.join_next().await {
            let published = published.expect("a publisher");
            account.refused += published.refused;
            account.kept += published.kept.len();
            for (room, text) in published.kept {
                assert!(kept[room].insert(text));
            }
        }
        let mut last = Client::connect(self.addresses[0], "").await;
        for room in &self.rooms {
            let end = Instant::now() + DEADLINE;
            while last.request("publish", message(room, "end")).await["success"] != true {
                assert!(Instant::now() < end, "the cluster takes messages again");
                sleep(Duration::from_millis(50)).await;
            }
        }
        let mut agreed: std::collections::HashMap<(String, String, u64), Value> = Default::default();
        while let Some(done) = self.subscribers.join_next().await {
            let (room, followed) = done.expect("a subscriber");
            account.resyncs += followed.resyncs;
            let mut seen = HashSet::new();
            for (seq, data) in &followed.received {
                let text = data["text"].as_str().unwrap_or_default();
                assert!(text == "end" || seen.insert(text.to_owned()), "{room}: {text} came twice");
                if followed.resyncs == 0 {
                    let key = (room.clone(), followed.epoch.clone(), *seq);
                    assert_eq!(agreed.entry(key).or_insert_with(|| data.clone()), data, "{room} {seq}");
                }
            }
            let index = self.rooms.iter().position(|name| *name == room).expect("a room of the load");
            let missed = kept[index].difference(&seen).count();
            assert!(
                missed == 0 || followed.resyncs > 0,
                "{room}: {missed} acknowledged messages were lost silently"
            );
            account.missed += missed;
        }
        account
    }
}

fn message(room: &str, text: &str) -> Value {
    json!({"room": room, "event": "quote", "data": {"text": text}})
}

async fn publish(
    mut client: Client,
    publisher: usize,
    rooms: Vec<String>,
    stopped: watch::Receiver<bool>,
    pause: Duration,
    kept: Arc<AtomicUsize>,
) -> Published {
    let mut published = Published::default();
    let mut n = 0usize;
    while !*stopped.borrow() {
        let (room, text) = (n % rooms.len(), format!("{publisher}-{n}"));
        n += 1;
        let answer = client.request("publish", message(&rooms[room], &text)).await;
        if answer["success"] == true {
            published.kept.push((room, text));
            kept.fetch_add(1, Ordering::Relaxed);
        } else {
            assert_eq!(answer["error_code"], "SERVICE_UNAVAILABLE", "{answer}");
            published.refused += 1;
            sleep(Duration::from_millis(20)).await;
        }
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
    published
}
