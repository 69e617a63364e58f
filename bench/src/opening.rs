//! Opens many connections, a limited number at a time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use anyhow::anyhow;
use tokio::task::JoinSet;

use crate::TargetArgs;
use crate::client::{Connection, Target};
use crate::clock::Clock;

/// Counts of whatever went wrong, by name.
pub(crate) type Errors = BTreeMap<String, u64>;

/// Resolves the addresses of all nodes under test.
pub(crate) async fn resolve(args: &TargetArgs, batch: bool) -> anyhow::Result<Vec<Target>> {
    let mut targets = Vec::with_capacity(args.via.len());
    for url in &args.via {
        targets.push(Target::resolve(url, args.token.as_deref(), batch, args.proto).await?);
    }
    Ok(targets)
}

/// How to open connections.
#[derive(Debug, Clone)]
pub(crate) struct Opener {
    pub(crate) targets: Rc<[Target]>,
    pub(crate) clock: Clock,
    /// Attempts at a time.
    pub(crate) concurrency: usize,
    /// Bound of the kernel's receive buffer in bytes.
    pub(crate) receive_buffer: Option<u32>,
}

impl Opener {
    /// Opens `count` connections; number `n` goes to the target `pick(n)` (modulo their number) and is handed to
    /// `opened`. Returns the failures by name.
    ///
    /// # Errors
    /// At the first failure before anything is open: that server is not there.
    pub(crate) async fn open_all(
        &self,
        count: usize,
        pick: impl Fn(usize) -> usize + 'static,
        opened: impl Fn(usize, Connection) + 'static,
    ) -> anyhow::Result<Errors> {
        let shared = Rc::new((pick, opened));
        let next = Rc::new(Cell::new(0usize));
        let errors = Rc::new(RefCell::new(Errors::new()));
        let any = Rc::new(Cell::new(false));
        let mut workers = JoinSet::new();
        for _ in 0..self.concurrency.clamp(1, count.max(1)) {
            let (opener, shared, next) = (self.clone(), shared.clone(), next.clone());
            let (errors, any) = (errors.clone(), any.clone());
            workers.spawn_local(async move {
                while let Some(number) = (next.get() < count).then(|| next.replace(next.get() + 1)) {
                    let target = &opener.targets[shared.0(number) % opener.targets.len()];
                    match Connection::open(target, opener.clock, opener.receive_buffer).await {
                        Ok(connection) => {
                            any.set(true);
                            shared.1(number, connection);
                        }
                        Err(error) if !any.get() => {
                            return Err(anyhow!("cannot open a connection to {}: {error}", target.addr));
                        }
                        Err(error) => *errors.borrow_mut().entry(error.to_string()).or_default() += 1,
                    }
                }
                Ok(())
            });
        }
        while let Some(finished) = workers.join_next().await {
            finished??;
        }
        Ok(errors.take())
    }
}

/// Waits until `done` says so, looking every 5 ms. False if that did not happen in time.
pub(crate) async fn wait_until(limit: std::time::Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = tokio::time::Instant::now() + limit;
    while !done() {
        if tokio::time::Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    true
}
