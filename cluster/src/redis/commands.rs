//! The connection for commands, and the task that keeps it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{RedisError, RedisResult};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::{Address, Backoff, Connection, Health, broker_error};
use crate::broker::BrokerError;

/// How often the connection is tried, and longest wait for the answer: who asks for something while Redis is away is then
/// soon refused at once.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
const CHECK_PATIENCE: Duration = Duration::from_secs(1);

/// Gives the connection to whoever has something to ask; clones share it.
#[derive(Clone)]
pub(crate) struct Commands {
    connection: watch::Receiver<Option<Connection>>,
    suspect: Arc<Notify>,
    health: Arc<Health>,
}

impl Commands {
    /// Starts the task; it ends when all clones are gone.
    pub(crate) fn start(address: Address, timeout: Duration, health: Arc<Health>) -> Self {
        let (sender, connection) = watch::channel(None);
        let suspect = Arc::new(Notify::new());
        let keeper = Keeper { address, timeout, suspect: suspect.clone(), health: health.clone() };
        tokio::spawn(async move {
            tokio::select! {
                () = keeper.run(&sender) => {}
                () = sender.closed() => {}
            }
        });
        Self { connection, suspect, health }
    }

    /// The connection, if there is one.
    pub(crate) fn get(&self) -> Result<Connection, BrokerError> {
        self.connection
            .borrow()
            .clone()
            .ok_or_else(|| BrokerError::Unavailable("redis cannot be reached".into()))
    }

    /// Waits for the connection.
    pub(crate) async fn wait(&self, patience: Duration) -> Result<Connection, BrokerError> {
        let mut connection = self.connection.clone();
        let _ = timeout(patience, connection.wait_for(Option::is_some)).await;
        self.get()
    }

    /// What an error means; one that may come from a broken connection has it looked at.
    pub(crate) fn failed(&self, place: &str, error: &RedisError) -> BrokerError {
        let failure = broker_error(error);
        match &failure {
            BrokerError::Damaged(problem) => self.health.found_garbage(place, problem),
            BrokerError::Unavailable(_) | BrokerError::Timeout => self.suspect.notify_one(),
        }
        failure
    }
}

struct Keeper {
    address: Address,
    timeout: Duration,
    suspect: Arc<Notify>,
    health: Arc<Health>,
}

impl Keeper {
    async fn run(self, state: &watch::Sender<Option<Connection>>) {
        let mut backoff = Backoff::new();
        let mut told = false;
        loop {
            match self.connect().await {
                Ok(mut connection) => {
                    tracing::info!(redis = ?self.address, "connected to redis");
                    (backoff, told) = (Backoff::new(), false);
                    state.send_replace(Some(connection.clone()));
                    self.health.commands.store(true, Ordering::Relaxed);
                    let error = self.until_broken(&mut connection).await;
                    state.send_replace(None);
                    self.health.commands.store(false, Ordering::Relaxed);
                    self.health.reconnects.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(redis = ?self.address, %error, "the connection to redis is lost, trying again");
                }
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(redis = ?self.address, %error, "cannot connect to redis, trying again");
                    }
                }
            }
            backoff.wait().await;
        }
    }

    /// A connection that can write.
    async fn connect(&self) -> RedisResult<Connection> {
        let mut connection = self.address.connect(self.timeout, None).await?;
        self.check(&mut connection).await?;
        Ok(connection)
    }

    async fn until_broken(&self, connection: &mut Connection) -> RedisError {
        loop {
            let _ = timeout(CHECK_INTERVAL, self.suspect.notified()).await;
            match timeout(CHECK_PATIENCE, self.check(connection)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error,
                Err(_) => return (redis::ErrorKind::Io, "no answer").into(),
            }
        }
    }

    /// A server that was demoted answers, but takes no writes; one that was restarted may still be loading.
    async fn check(&self, connection: &mut Connection) -> RedisResult<()> {
        if self.address.is_cluster() {
            return redis::cmd("PING").exec_async(connection).await;
        }
        let role: Vec<redis::Value> = redis::cmd("ROLE").query_async(connection).await?;
        match role.first().map(redis::from_redis_value_ref::<String>) {
            Some(Ok(role)) if role == "master" => Ok(()),
            _ => Err((redis::ErrorKind::Io, "the server is a replica, which takes no writes").into()),
        }
    }
}
