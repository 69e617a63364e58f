//! The task that keeps a process's own lease, and knows who else is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, broadcast, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Kind, LeaseError, Members, Report};

/// How often the members are looked at; at once when somebody says that they changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Wait before an attempt to join that failed is made again.
const JOIN_RETRY: Duration = Duration::from_millis(100);
/// Changes that a slow reader may lack before it has to look at the whole.
const CHANGES: usize = 256;
/// How long a process that leaves is there after it said so, so that the others see it drain and do not take it for dead.
const FAREWELL: Duration = Duration::from_millis(500);

/// A difference between two snapshots.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A process came, or a new run of one that was there.
    Joined(Report),
    /// A process left or lost its lease.
    Left(Report),
    /// It takes no more clients, or does so again.
    Draining(Report),
    /// Its load changed.
    Load(Report),
    /// It left some time ago without having said that it would, and did not come back. No difference between snapshots says
    /// so, but the time that has passed since.
    Lost(Report),
}

/// The changes that lead from one snapshot to the other, both sorted by id.
#[must_use]
pub fn diff(before: &[Report], after: &[Report]) -> Vec<Change> {
    let find = |all: &[Report], id: &str| all.binary_search_by(|one| one.id.as_str().cmp(id)).ok();
    let mut changes = Vec::new();
    for old in before {
        if find(after, &old.id).is_none_or(|at| after[at].run != old.run) {
            changes.push(Change::Left(old.clone()));
        }
    }
    for new in after {
        match find(before, &new.id).map(|at| &before[at]).filter(|old| old.run == new.run) {
            None => changes.push(Change::Joined(new.clone())),
            Some(old) if old.draining != new.draining => changes.push(Change::Draining(new.clone())),
            Some(old) if old != new => changes.push(Change::Load(new.clone())),
            Some(_) => {}
        }
    }
    changes
}

/// How the own lease stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// Not taken yet.
    Joining,
    /// The others count on this process.
    Held,
    /// It could not be renewed in time: the others have given this process up.
    Lost,
    /// Another process took the id.
    Replaced,
}

/// Who is there. Clones share it.
#[derive(Clone)]
pub struct Roster {
    members: watch::Receiver<Arc<Vec<Report>>>,
    lease: watch::Receiver<LeaseState>,
    changes: broadcast::Sender<Change>,
    lost: Arc<Lost>,
    look: Arc<Notify>,
    renew: Arc<Notify>,
}

/// How many of each kind are gone for good without having said that they would go.
#[derive(Debug, Default)]
struct Lost {
    nodes: AtomicU64,
    gateways: AtomicU64,
}

impl Lost {
    fn of(&self, kind: Kind) -> &AtomicU64 {
        match kind {
            Kind::Node => &self.nodes,
            Kind::Gateway => &self.gateways,
        }
    }
}

impl Roster {
    /// Starts the task. `report` is asked for whenever the lease is renewed, every third of it. It ends when all clones
    /// are gone; the lease then ends by itself.
    #[must_use]
    pub fn start(
        members: Arc<dyn Members>,
        lease: Duration,
        report: impl FnMut() -> Report + Send + 'static,
    ) -> Self {
        let (known, known_receiver) = watch::channel(Arc::new(Vec::new()));
        let (state, state_receiver) = watch::channel(LeaseState::Joining);
        let (changes, _) = broadcast::channel(CHANGES);
        let (look, renew) = <(Arc<Notify>, Arc<Notify>)>::default();
        let lost = Arc::<Lost>::default();
        let roster = Self {
            members: known_receiver,
            lease: state_receiver,
            changes: changes.clone(),
            lost: lost.clone(),
            look: look.clone(),
            renew: renew.clone(),
        };
        let missing = Vec::new();
        let keeper =
            Keeper { members, lease, report, known, state, changes, lost, missing, look, renew, until: None };
        tokio::spawn(keeper.run());
        roster
    }

    /// Everybody with a lease, sorted by id, as seen last.
    #[must_use]
    pub fn members(&self) -> Arc<Vec<Report>> {
        self.members.borrow().clone()
    }

    /// The own lease.
    #[must_use]
    pub fn lease(&self) -> LeaseState {
        *self.lease.borrow()
    }

    /// Waits until the lease is taken, but no longer than `patience`.
    pub async fn joined(&self, patience: Duration) {
        let mut lease = self.lease.clone();
        let _ = tokio::time::timeout(patience, lease.wait_for(|state| *state != LeaseState::Joining)).await;
    }

    /// What changes from now on. A reader that is told that it lagged looks at [`members`](Self::members).
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// How many of a kind were lost since the start: their lease ended though they had not said that they would go
    /// (drain), and the same run did not take it again for as long as a lease lasts.
    #[must_use]
    pub fn lost(&self, kind: Kind) -> u64 {
        self.lost.of(kind).load(Ordering::Relaxed)
    }

    /// Looks at the others now.
    pub fn look(&self) {
        self.look.notify_one();
    }

    /// When a process that has just told the others that it drains may leave: at once if there are none.
    #[must_use]
    pub fn farewell(&self) -> Instant {
        let others = self.members.borrow().len() > 1;
        Instant::now() + if others { FAREWELL } else { Duration::ZERO }
    }

    /// Renews the lease now, with a new report.
    pub fn renew(&self) {
        self.renew.notify_one();
    }
}

struct Keeper<F> {
    members: Arc<dyn Members>,
    lease: Duration,
    report: F,
    known: watch::Sender<Arc<Vec<Report>>>,
    state: watch::Sender<LeaseState>,
    changes: broadcast::Sender<Change>,
    lost: Arc<Lost>,
    /// Gone without a word, and since when. They come back where Redis lost the leases, or nobody could renew them.
    missing: Vec<(Report, Instant)>,
    look: Arc<Notify>,
    renew: Arc<Notify>,
    /// When the own lease ends.
    until: Option<Instant>,
}

impl<F: FnMut() -> Report> Keeper<F> {
    async fn run(mut self) {
        let mut renewing = interval((self.lease / 3).max(Duration::from_millis(10)));
        renewing.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looking = interval(LOOK_INTERVAL);
        looking.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let look = tokio::select! {
                () = self.known.closed() => return,
                _ = renewing.tick() => { self.renew().await; false }
                () = self.renew.notified() => { self.renew().await; true }
                () = tokio::time::sleep(JOIN_RETRY), if self.is_joining() => { self.renew().await; true }
                _ = looking.tick() => true,
                () = self.look.notified() => true,
            };
            if look {
                self.look().await;
            }
            if self.until.is_some_and(|until| until <= Instant::now()) {
                self.set(LeaseState::Lost);
            }
        }
    }

    fn is_joining(&self) -> bool {
        *self.state.borrow() == LeaseState::Joining
    }

    fn set(&self, state: LeaseState) {
        let changed = self.state.send_if_modified(|held| std::mem::replace(held, state) != state);
        match state {
            LeaseState::Lost if changed => {
                tracing::error!(
                    "the lease in the cluster could not be renewed in time: to the others this process is gone"
                );
            }
            LeaseState::Replaced if changed => {
                tracing::error!("another process joined the cluster under this id: this one must stop");
            }
            LeaseState::Held if changed => tracing::info!("this process has joined the cluster"),
            _ => {}
        }
    }

    async fn renew(&mut self) {
        let report = (self.report)();
        let asked = Instant::now();
        let state = *self.state.borrow();
        let result = match state {
            LeaseState::Joining => self.members.join(&report, self.lease).await,
            _ => self.members.renew(&report, self.lease).await,
        };
        match result {
            Ok(()) => {
                self.until = Some(asked + self.lease);
                self.set(LeaseState::Held);
            }
            Err(LeaseError::Replaced) => {
                self.until = None;
                self.set(LeaseState::Replaced);
            }
            Err(LeaseError::Unavailable(error)) => tracing::debug!(%error, "the lease was not renewed"),
        }
    }

    async fn look(&mut self) {
        // While nothing can be learnt, those who were there count as there.
        let Ok(after) = self.members.snapshot().await else { return };
        let changes = diff(&self.known.borrow(), &after);
        if !changes.is_empty() {
            self.known.send_replace(Arc::new(after));
        }
        for change in changes {
            match &change {
                Change::Joined(report) => {
                    tracing::info!(
                        member = report.id,
                        address = report.address,
                        "a member has joined the cluster"
                    );
                }
                Change::Left(report) => {
                    tracing::info!(member = report.id, "a member has left the cluster");
                    if !report.draining {
                        self.missing.push((report.clone(), Instant::now()));
                    }
                }
                Change::Draining(report) => {
                    if report.draining {
                        tracing::info!(member = report.id, "a member is draining: it takes no more clients");
                    } else {
                        tracing::info!(member = report.id, "a member takes clients again");
                    }
                }
                Change::Load(_) | Change::Lost(_) => {}
            }
            let _ = self.changes.send(change);
        }
        let known = self.known.borrow().clone();
        self.missing.retain(|(report, since)| {
            let back = known.iter().any(|member| member.id == report.id && member.run == report.run);
            let lost = !back && since.elapsed() >= self.lease;
            if lost {
                tracing::warn!(member = report.id, "a member is lost: it left without notice");
                self.lost.of(report.kind).fetch_add(1, Ordering::Relaxed);
                let _ = self.changes.send(Change::Lost(report.clone()));
            }
            !back && !lost
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::memory::MemoryMembers;
    use crate::members::suite::report;

    #[test]
    fn a_diff_tells_what_happened() {
        let drained = Report { draining: true, ..report("b", 1) };
        let busy = Report { connections: 5, ..report("c", 1) };
        let before = [report("a", 1), report("b", 1), report("c", 1), report("d", 1)];
        let after = [drained.clone(), busy.clone(), report("d", 2), report("e", 1)];
        let expected = [
            Change::Left(report("a", 1)),
            Change::Left(report("d", 1)),
            Change::Draining(drained),
            Change::Load(busy),
            Change::Joined(report("d", 2)),
            Change::Joined(report("e", 1)),
        ];
        assert_eq!(diff(&before, &after), expected);
        assert!(diff(&after, &after).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_whose_id_was_taken_is_told() {
        let members = MemoryMembers::default();
        let lease = Duration::from_secs(3);
        let first = Roster::start(Arc::new(members.clone()), lease, || report("a", 1));
        let mut state = first.lease.clone();
        state.wait_for(|state| *state == LeaseState::Held).await.unwrap();
        let mut changes = first.changes();
        let _second = Roster::start(Arc::new(members), lease, || report("a", 2));
        state.wait_for(|state| *state == LeaseState::Replaced).await.unwrap();
        while first.members().first().is_none_or(|member| member.run != 2) {
            changes.recv().await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_gone_without_a_word_is_lost_unless_it_comes_back() {
        let members = MemoryMembers::default();
        let lease = Duration::from_secs(3);
        let roster = Roster::start(Arc::new(members.clone()), lease, || report("a", 1));
        let join = async |report: Report, lease| members.join(&report, lease).await.unwrap();
        let seconds = async |n| tokio::time::sleep(Duration::from_secs(n)).await;
        join(report("dies", 1), lease).await;
        join(Report { kind: Kind::Gateway, ..report("dies too", 1) }, lease).await;
        join(Report { draining: true, ..report("leaves", 1) }, lease).await;
        join(report("sleeps", 1), lease).await;
        seconds(5).await;
        assert_eq!(roster.members().len(), 1, "their leases have ended");
        assert_eq!((roster.lost(Kind::Node), roster.lost(Kind::Gateway)), (0, 0), "they may come back");
        join(report("sleeps", 1), Duration::from_secs(60)).await;
        seconds(4).await;
        assert_eq!((roster.lost(Kind::Node), roster.lost(Kind::Gateway)), (1, 1));
        // A new run under the name of one that died.
        join(report("sleeps", 2), Duration::from_secs(60)).await;
        seconds(5).await;
        assert_eq!((roster.lost(Kind::Node), roster.lost(Kind::Gateway)), (2, 1));
    }
}
