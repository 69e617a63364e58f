//! What is in force for sessions, and how it changes while they live.
//!
//! Invariants: reading takes no lock; a session's times of heartbeats stay as its client was told, whatever changes, so
//! there is a policy for each pair of such times that was ever in force.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tickmesh_cluster::config::Config;
use tickmesh_protocol::memory::Level;
use tickmesh_protocol::session::{Policy, Session};

/// Queues are never shorter than this, in bytes: a message and its answer have to fit.
const LEAST_QUEUE: usize = 64 * 1024;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Policies {
    /// The first is for new sessions.
    all: ArcSwap<Vec<Arc<Policy>>>,
    /// What they are made from. Held while they are.
    sources: Mutex<(Arc<Config>, Level)>,
}

impl Policies {
    /// This one, made from this configuration.
    pub(crate) fn new(policy: Policy, config: &Config) -> Self {
        Self {
            all: ArcSwap::from_pointee(vec![Arc::new(policy)]),
            sources: Mutex::new((Arc::new(config.clone()), Level::Normal)),
        }
    }

    /// For new sessions.
    pub(crate) fn current(&self) -> Arc<Policy> {
        self.all.load()[0].clone()
    }

    /// Has a session go by what is in force now.
    pub(crate) fn apply(&self, session: &mut Session) {
        let all = self.all.load();
        let has = session.policy();
        if Arc::ptr_eq(has, &all[0]) {
            return;
        }
        let told = |policy: &&Arc<Policy>| heartbeat(policy) == heartbeat(has);
        if let Some(policy) = all.iter().find(told).filter(|policy| !Arc::ptr_eq(policy, has)) {
            session.set_policy(policy.clone());
        }
    }

    /// The configuration has changed.
    pub(crate) fn configure(&self, config: &Config) {
        let mut sources = self.sources.lock();
        sources.0 = Arc::new(config.clone());
        self.make(&sources);
    }

    /// Memory is shorter or less short.
    pub(crate) fn set_level(&self, level: Level) {
        let mut sources = self.sources.lock();
        sources.1 = level;
        self.make(&sources);
    }

    fn make(&self, (config, level): &(Arc<Config>, Level)) {
        let all = self.all.load_full();
        let mut newest = (*all[0]).clone();
        newest.ping_interval_ms = config.heartbeat.ping_interval_ms;
        newest.ping_timeout_ms = config.heartbeat.timeout_ms;
        tune(&mut newest, config, *level);
        let told = heartbeat(&newest);
        let mut next = vec![Arc::new(newest)];
        for policy in all.iter().filter(|policy| heartbeat(policy) != told) {
            let mut older = (**policy).clone();
            tune(&mut older, config, *level);
            next.push(Arc::new(older));
        }
        self.all.store(Arc::new(next));
    }
}

/// Of what clients were told.
fn heartbeat(policy: &Policy) -> (u64, u64) {
    (policy.ping_interval_ms, policy.ping_timeout_ms)
}

/// Sets what may change while sessions live.
pub(crate) fn tune(policy: &mut Policy, config: &Config, level: Level) {
    let limits = &config.limits;
    // A quarter where memory is short, and a quarter of that where it is very short.
    let queue = match level {
        Level::Normal | Level::Moderate => limits.max_queue_bytes,
        Level::High => limits.max_queue_bytes / 4,
        Level::Critical => limits.max_queue_bytes / 16,
    };
    policy.max_queue_bytes = queue.max(LEAST_QUEUE.min(limits.max_queue_bytes));
    policy.max_queue_age_ms = limits.max_queue_age_ms;
    policy.max_subscriptions = limits.max_subscriptions;
    policy.max_in_flight = limits.max_in_flight;
    policy.max_gate_messages = limits.max_gate_messages;
    policy.rates = config.rate.session();
    policy.stale_ms = limits.stale_s * 1_000;
    policy.min_ping_interval_ms = config.heartbeat.min_ping_interval_ms.min(policy.ping_interval_ms);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickmesh_protocol::encode::Encoding;
    use tickmesh_protocol::identity::Identity;
    use tickmesh_protocol::session::{Now, Wire};

    use crate::server::policy;

    #[test]
    fn sessions_keep_the_heartbeat_that_they_were_told_and_take_the_rest() {
        let mut config = Config::node_defaults();
        let policies = Policies::new(policy(&config, "n", false), &config);
        let now = Now { mono: 0, utc: 0 };
        let session = || {
            let wire = Wire::direct(Encoding::Json);
            Session::new(now, "s", policies.current(), Identity::anonymous(), wire)
        };
        let mut old = session();
        config.heartbeat.ping_interval_ms = 10_000;
        config.limits.max_subscriptions = 7;
        policies.configure(&config);
        policies.apply(&mut old);
        assert_eq!((old.policy().ping_interval_ms, old.policy().max_subscriptions), (30_000, 7));
        let new = session();
        assert_eq!((new.policy().ping_interval_ms, new.policy().max_subscriptions), (10_000, 7));
        policies.set_level(Level::High);
        policies.apply(&mut old);
        assert_eq!(old.policy().max_queue_bytes, config.limits.max_queue_bytes / 4);
        assert_eq!(new.policy().max_queue_bytes, config.limits.max_queue_bytes);
        policies.set_level(Level::Normal);
        policies.apply(&mut old);
        assert_eq!(old.policy().max_queue_bytes, config.limits.max_queue_bytes);
        assert_eq!(policies.all.load().len(), 2);
    }
}
