//! The thread that posts alarms to one receiver.
//!
//! Invariants: what waits is bounded; what is told of one alarm is posted in order, and a receiver that refuses one alarm gets the
//! others all the same; without its handle the thread makes no further try, because another node may be telling by then what
//! came later, and ends.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use awc::error::{ConnectError, SendRequestError};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tickmesh_cluster::config::Webhook;
use tickmesh_telemetry::http::Outgoing;
use tokio::sync::mpsc;

use super::{Gauges, Outcome};
use crate::{background, clock};

/// Longest pause before an alarm that was not taken is sent again.
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// What every receiver is told in the same way.
#[derive(Debug, Clone)]
pub(super) struct Manner {
    pub(super) outgoing: Outgoing,
    /// First pause after a failure; doubled each time.
    pub(super) retry: Duration,
}

/// A change of an alarm, for one receiver.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) delivery: String,
    pub(super) alarm: String,
    pub(super) body: String,
    /// After which it is given up.
    pub(super) patience: Duration,
}

/// The way to the thread, which ends when this is gone.
#[derive(Debug)]
pub(super) struct Courier {
    jobs: SyncSender<Job>,
    over: Arc<AtomicBool>,
}

impl Drop for Courier {
    fn drop(&mut self) {
        // The end of the channel is told only behind all that is in it.
        self.over.store(true, Ordering::Release);
    }
}

impl Courier {
    /// Starts it.
    pub(super) fn start(
        hook: Webhook,
        manner: Manner,
        queue: usize,
        made: mpsc::Sender<(String, String)>,
        gauges: Arc<Gauges>,
    ) -> io::Result<Self> {
        let (sender, jobs) = sync_channel(queue);
        let over = Arc::<AtomicBool>::default();
        let waiting = VecDeque::new();
        let thread = Thread { hook, manner, made, gauges, waiting, most: queue, over: over.clone() };
        background::spawn("webhook", move || thread.run(&jobs))?;
        Ok(Self { jobs: sender, over })
    }

    /// Whether there is room for it.
    pub(super) fn offer(&self, job: Job) -> bool {
        self.jobs.try_send(job).is_ok()
    }

    /// One without a thread, and what it was offered.
    #[cfg(test)]
    pub(super) fn idle(queue: usize) -> (Self, Receiver<Job>) {
        let (jobs, offered) = sync_channel(queue);
        (Self { jobs, over: Arc::default() }, offered)
    }
}

/// A job that waits for its turn.
#[derive(Debug)]
struct Waiting {
    job: Job,
    due: Instant,
    pause: Duration,
    until: Instant,
}

struct Thread {
    hook: Webhook,
    manner: Manner,
    made: mpsc::Sender<(String, String)>,
    gauges: Arc<Gauges>,
    waiting: VecDeque<Waiting>,
    most: usize,
    /// The handle is gone.
    over: Arc<AtomicBool>,
}

impl Thread {
    fn run(mut self, jobs: &Receiver<Job>) {
        // The HTTP client needs it; it runs while a request is under way.
        let runtime = match actix_rt::Runtime::new() {
            Ok(runtime) => runtime,
            Err(error) => {
                return tracing::error!(%error, "no runtime for a webhook: it is not told of alarms");
            }
        };
        let client = runtime.block_on(async { self.manner.outgoing.client() });
        loop {
            let now = Instant::now();
            let due = next(&self.waiting).map(|at| self.waiting[at].due);
            let pause = due.map_or(Duration::from_secs(3_600), |due| due.saturating_duration_since(now));
            match jobs.recv_timeout(pause) {
                Ok(job) => self.take(job),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.over.load(Ordering::Acquire) {
                break;
            }
            if let Some(at) = next(&self.waiting).filter(|at| self.waiting[*at].due <= Instant::now()) {
                let result = runtime.block_on(self.post(&client, &self.waiting[at].job));
                self.note(at, result);
            }
        }
        self.gauges.waiting.fetch_sub(self.waiting.len() as u64, Ordering::Relaxed);
    }

    fn take(&mut self, job: Job) {
        if self.waiting.len() >= self.most {
            self.gauges.count(Outcome::Dropped);
            return tracing::warn!(
                alarm = job.alarm,
                "a webhook is not told of an alarm: too many wait for it"
            );
        }
        let now = Instant::now();
        self.gauges.waiting.fetch_add(1, Ordering::Relaxed);
        let until = now + job.patience;
        self.waiting.push_back(Waiting { job, due: now, pause: self.manner.retry, until });
    }

    /// Notes what came of an attempt.
    fn note(&mut self, at: usize, result: Result<(), String>) {
        let one = &mut self.waiting[at];
        match result {
            Ok(()) => {
                self.gauges.count(Outcome::Delivered);
                let Some(Waiting { job, .. }) = self.waiting.remove(at) else { return };
                self.gauges.waiting.fetch_sub(1, Ordering::Relaxed);
                // Where nobody listens any more, another node sends it again under the same id.
                let _ = self.made.try_send((job.delivery, job.alarm));
            }
            Err(problem) if Instant::now() + one.pause < one.until => {
                self.gauges.count(Outcome::Retried);
                tracing::debug!(
                    alarm = one.job.alarm,
                    problem,
                    "a webhook did not take an alarm, will try again"
                );
                one.due = Instant::now() + one.pause.mul_f64(rand::random_range(0.5..=1.0));
                one.pause = (one.pause * 2).min(LONGEST_RETRY);
            }
            Err(problem) => {
                self.gauges.count(Outcome::GivenUp);
                tracing::warn!(
                    alarm = one.job.alarm,
                    problem,
                    "a webhook did not take an alarm: it is given up"
                );
                self.waiting.remove(at);
                self.gauges.waiting.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Posts it once; what is wrong is told without the receiver's address.
    async fn post(&self, client: &awc::Client, job: &Job) -> Result<(), String> {
        let timestamp = clock::now().utc;
        let request = client
            .post(self.hook.url.expose())
            .insert_header(("Content-Type", "application/json"))
            .insert_header(("X-Tickmesh-Delivery", job.delivery.as_str()))
            .insert_header(("X-Tickmesh-Timestamp", timestamp.to_string()))
            .insert_header((
                "X-Tickmesh-Signature",
                signature(self.hook.secret.expose(), timestamp, &job.body),
            ))
            // The next alarm may be days away.
            .force_close();
        match request.send_body(job.body.clone()).await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("status {}", answer.status().as_u16())),
            // Its text may quote the URL.
            Err(SendRequestError::Timeout | SendRequestError::Connect(ConnectError::Timeout)) => {
                Err("no answer in time".into())
            }
            // So the crate tells of a certificate that is not trusted.
            Err(SendRequestError::Connect(ConnectError::Io(error)))
                if error.kind() == io::ErrorKind::InvalidData =>
            {
                Err("TLS failed".into())
            }
            Err(SendRequestError::Send(error) | SendRequestError::Connect(ConnectError::Io(error))) => {
                Err(error.kind().to_string())
            }
            Err(SendRequestError::Connect(ConnectError::Resolver(_) | ConnectError::NoRecords)) => {
                Err("host not found".into())
            }
            Err(_) => Err("the request failed".into()),
        }
    }
}

/// The one that is due first, of those that wait for no earlier one of the same alarm.
fn next(waiting: &VecDeque<Waiting>) -> Option<usize> {
    let mut seen = BTreeSet::new();
    let heads = waiting.iter().enumerate().filter(|(_, one)| seen.insert(one.job.alarm.as_str()));
    heads.min_by_key(|(_, one)| one.due).map(|(at, _)| at)
}

/// HMAC-SHA256 (RFC 2104) over the timestamp in decimal, a full stop, and the body.
fn signature(secret: &str, timestamp: u64, body: &str) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(timestamp.to_string().as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use tickmesh_cluster::config::Secret;

    use super::*;

    #[test]
    fn a_signature_is_what_others_compute() {
        // echo -n '1700000000000.{"a":1}' | openssl dgst -sha256 -hmac 'a secret of sixteen bytes'
        let expected = "sha256=2c4aadbaabea9c362828d76c5a8fa757102277c7d9d34782c5ac5250b02326b6";
        assert_eq!(signature("a secret of sixteen bytes", 1_700_000_000_000, "{\"a\":1}"), expected);
    }

    #[tokio::test]
    async fn without_its_handle_nothing_more_is_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hook = Webhook {
            url: Secret::new(format!("http://{}/", listener.local_addr().unwrap())),
            secret: Secret::new("a secret of sixteen bytes"),
        };
        let outgoing = Outgoing::new(Duration::from_secs(2), None).unwrap();
        let manner = Manner { outgoing, retry: Duration::from_millis(1) };
        let (done, mut made) = mpsc::channel(8);
        let courier = Courier::start(hook, manner, 8, done, Arc::default()).unwrap();
        for delivery in ["1", "2", "3"] {
            let text = || delivery.to_owned();
            let patience = Duration::from_secs(3_600);
            assert!(courier.offer(Job { delivery: text(), alarm: text(), body: text(), patience }));
        }
        // The first one is under way, and the others wait, when this node no longer looks.
        let (mut stream, _) = listener.accept().unwrap();
        drop(courier);
        let mut request = [0; 1_024];
        assert!(stream.read(&mut request).unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        drop(stream);
        let ending = async {
            let mut told = Vec::new();
            while let Some((delivery, _)) = made.recv().await {
                told.push(delivery);
            }
            told
        };
        let told = tokio::time::timeout(Duration::from_secs(20), ending).await.expect("the thread ends");
        assert_eq!(told, ["1"]);
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "nobody tried again");
    }

    #[test]
    fn one_alarm_does_not_hold_up_others_and_keeps_its_order() {
        let now = Instant::now();
        let waiting = |alarm: &str, delivery: &str, due: u64| Waiting {
            job: Job {
                delivery: delivery.into(),
                alarm: alarm.into(),
                body: String::new(),
                patience: Duration::ZERO,
            },
            due: now + Duration::from_secs(due),
            pause: Duration::ZERO,
            until: now,
        };
        assert_eq!(next(&VecDeque::new()), None);
        let all = VecDeque::from([waiting("a", "1", 60), waiting("a", "2", 0), waiting("b", "3", 5)]);
        assert_eq!(next(&all).map(|at| all[at].job.delivery.as_str()), Some("3"));
        let all = VecDeque::from([waiting("a", "1", 60), waiting("a", "2", 0)]);
        assert_eq!(next(&all), Some(0), "not before what came first");
    }
}
