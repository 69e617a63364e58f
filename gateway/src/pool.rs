//! Links to nodes that wait for a client, so that a new one costs no handshake: each worker thread has its own.
//!
//! For each node there are `pool.min` of them; if that was not enough, twice as many, up to `pool.max`, until they were not
//! needed for `pool.idle_ms`. Invariant: a link that ended while it waited is never given out.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tickmesh_cluster::config::PoolConfig;
use tickmesh_edge::socket::Socket;
use tokio::time::{Instant, sleep};

use crate::metrics::Traffic;
use crate::nodes::{Node, Nodes};

/// How often the links are looked after.
const LOOK: Duration = Duration::from_millis(250);

/// The links of one thread.
pub(crate) struct Pool {
    nodes: Arc<Nodes>,
    config: PoolConfig,
    traffic: Arc<Traffic>,
    /// By the node's run: a node that was started again has none of the old ones.
    warm: RefCell<HashMap<u64, Warm>>,
}

/// Those to one node.
struct Warm {
    links: Vec<Socket>,
    connecting: usize,
    /// How many there should be.
    target: usize,
    /// When one was taken last.
    taken: Instant,
}

impl Pool {
    pub(crate) fn new(nodes: Arc<Nodes>, config: PoolConfig, traffic: Arc<Traffic>) -> Rc<Self> {
        let pool = Rc::new(Self { nodes, config, traffic, warm: RefCell::default() });
        actix_rt::spawn(look_after(Rc::downgrade(&pool)));
        pool
    }

    /// A link to a node.
    pub(crate) async fn link(self: &Rc<Self>, node: &Arc<Node>) -> io::Result<Socket> {
        let ready = self.take(node);
        self.refill(node);
        match ready {
            Some(socket) => Ok(socket),
            None => self.nodes.dialer().link(&node.address, node.run).await,
        }
    }

    fn take(&self, node: &Node) -> Option<Socket> {
        let mut all = self.warm.borrow_mut();
        let warm = all.entry(node.run).or_insert_with(|| Warm::new(self.config.min));
        warm.taken = Instant::now();
        let ready =
            std::iter::from_fn(|| warm.links.pop()).find_map(|mut link| is_idle(&mut link).then_some(link));
        if warm.links.is_empty() {
            warm.target = (warm.target * 2).max(1).min(self.config.max);
        }
        ready
    }

    /// Makes up for links that are lacking, in the background.
    fn refill(self: &Rc<Self>, node: &Arc<Node>) {
        let lacking = {
            let mut all = self.warm.borrow_mut();
            let warm = all.entry(node.run).or_insert_with(|| Warm::new(self.config.min));
            let lacking = warm.target.saturating_sub(warm.links.len() + warm.connecting);
            warm.connecting += lacking;
            lacking
        };
        for _ in 0..lacking {
            let (pool, node) = (self.clone(), node.clone());
            actix_rt::spawn(async move {
                let link = pool.nodes.dialer().link(&node.address, node.run).await;
                // It may have been given up meanwhile, and begun anew with nothing under way.
                if let Some(warm) = pool.warm.borrow_mut().get_mut(&node.run) {
                    warm.connecting = warm.connecting.saturating_sub(1);
                    warm.links.extend(link.ok().filter(|_| warm.links.len() < warm.target));
                }
            });
        }
    }

    fn look(self: &Rc<Self>) {
        let alive = self.nodes.placeable();
        self.warm.borrow_mut().retain(|run, warm| {
            if warm.taken.elapsed() > Duration::from_millis(self.config.idle_ms) {
                warm.target = self.config.min;
            }
            warm.links.retain_mut(is_idle);
            warm.links.truncate(warm.target);
            alive.iter().any(|node| node.run == *run)
        });
        let idle = self.warm.borrow().values().map(|warm| warm.links.len() as u64).sum();
        self.traffic.idle_links.set(idle);
        for node in &alive {
            self.refill(node);
        }
    }
}

impl Warm {
    fn new(target: usize) -> Self {
        Self { links: Vec::new(), connecting: 0, target, taken: Instant::now() }
    }
}

/// A link that ended, or on which a node speaks unasked, is of no use.
fn is_idle(link: &mut Socket) -> bool {
    matches!(link.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

async fn look_after(pool: Weak<Pool>) {
    loop {
        match pool.upgrade() {
            Some(pool) => pool.look(),
            None => return,
        }
        sleep(LOOK).await;
    }
}
