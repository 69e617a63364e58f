//! Where Redis is: one server, a Redis Cluster, or a master that Sentinels know.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{AsyncPushSender, ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, IntoConnectionInfo, Pipeline, ProtocolVersion,
    RedisFuture, RedisResult, Value,
};
use tickmesh_protocol::room::RoomName;

use super::room_key;

/// A checked address.
#[derive(Clone)]
pub enum Address {
    /// `redis://[[user]:password@]host[:port][/db]`
    Single(ConnectionInfo),
    /// `redis+cluster://[[user]:password@]host:port[,host:port..]`
    Cluster(Vec<ConnectionInfo>),
    /// `redis+sentinel://[[user]:password@]host:port[,host:port..]/master[/db]`; the password is for Redis itself.
    Sentinel {
        /// The Sentinels.
        sentinels: Vec<ConnectionInfo>,
        /// What they call the master.
        master: String,
        /// Database number.
        db: i64,
    },
}

/// Not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "redis://[[user]:password@]host[:port][/db], redis+cluster://host:port[,host:port..] or \
     redis+sentinel://host:port[,host:port..]/master[/db]"
)]
pub struct BadAddress;

impl Address {
    /// Reads a URL. No connection is made.
    ///
    /// # Errors
    /// When it is none of the three kinds.
    pub fn parse(url: &str) -> Result<Self, BadAddress> {
        let (scheme, rest) = url.split_once("://").ok_or(BadAddress)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let at = if credentials.is_empty() { "" } else { "@" };
        let server = |host: &str, db: &str| {
            let port = if host.ends_with(']') || !host.contains(':') { ":6379" } else { "" };
            let info = format!("redis://{credentials}{at}{host}{port}/{db}").into_connection_info();
            let info = info.ok().filter(|_| !host.is_empty()).ok_or(BadAddress)?;
            let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
            Ok(info.set_redis_settings(settings))
        };
        let servers = || hosts.split(',').map(|host| server(host, "")).collect::<Result<Vec<_>, _>>();
        match scheme {
            "redis" => Ok(Self::Single(server(hosts, path)?)),
            "redis+cluster" if path.is_empty() => Ok(Self::Cluster(servers()?)),
            "redis+sentinel" => {
                let (master, db) = path.split_once('/').unwrap_or((path, "0"));
                let db = db.parse().map_err(|_| BadAddress)?;
                if master.is_empty() {
                    return Err(BadAddress);
                }
                Ok(Self::Sentinel { sentinels: servers()?, master: master.to_owned(), db })
            }
            _ => Err(BadAddress),
        }
    }

    /// Channels belong to slots.
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// Makes a connection; what Redis pushes goes to `push`.
    pub(crate) async fn connect(
        &self,
        timeout: Duration,
        push: Option<Arc<dyn AsyncPushSender>>,
    ) -> RedisResult<Connection> {
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout));
        if let Some(push) = &push {
            config = config.set_push_sender(push.clone());
        }
        match self {
            Self::Single(info) => {
                let client = Client::open(info.clone())?;
                Ok(Connection::Single(client.get_multiplexed_async_connection_with_config(&config).await?))
            }
            Self::Cluster(infos) => {
                let mut builder = ClusterClientBuilder::new(infos.clone())
                    .use_protocol(ProtocolVersion::RESP3)
                    .connection_timeout(timeout)
                    .response_timeout(timeout)
                    .overall_response_timeout(Some(timeout))
                    .retries(3);
                if let Some(push) = push {
                    builder = builder.push_sender(push);
                }
                Ok(Connection::Cluster(builder.build()?.get_async_connection().await?))
            }
            Self::Sentinel { sentinels, master, db } => {
                let addresses = sentinels.iter().map(|info| info.addr().clone());
                let mut builder = SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?
                    .set_client_to_redis_protocol(ProtocolVersion::RESP3)
                    .set_client_to_redis_db(*db);
                if let Some(settings) = sentinels.first().map(ConnectionInfo::redis_settings) {
                    if let Some(user) = settings.username() {
                        builder = builder.set_client_to_redis_username(user);
                    }
                    if let Some(password) = settings.password() {
                        builder = builder.set_client_to_redis_password(password);
                    }
                }
                let mut client = builder.build()?;
                Ok(Connection::Single(client.get_async_connection_with_config(&config).await?))
            }
        }
    }
}

/// Without passwords.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single(info) => write!(f, "redis://{}", info.addr()),
            Self::Cluster(infos) | Self::Sentinel { sentinels: infos, .. } => {
                f.write_str(if self.is_cluster() { "redis+cluster://" } else { "redis+sentinel://" })?;
                for (n, info) in infos.iter().enumerate() {
                    write!(f, "{}{}", if n > 0 { "," } else { "" }, info.addr())?;
                }
                Ok(())
            }
        }
    }
}

/// A connection of either kind; clones share it.
#[derive(Clone)]
pub(crate) enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    /// Asks for what is published to these channels; answers when Redis has confirmed all of them.
    pub(crate) async fn subscribe(&mut self, channels: &[String]) -> RedisResult<()> {
        match self {
            Self::Single(connection) => connection.subscribe(channels).await,
            Self::Cluster(connection) => {
                // Each may belong to another server.
                for channel in channels {
                    connection.ssubscribe(channel).await?;
                }
                Ok(())
            }
        }
    }

    /// Ends what [`subscribe`](Self::subscribe) began.
    pub(crate) async fn unsubscribe(&mut self, channels: &[String]) -> RedisResult<()> {
        match self {
            Self::Single(connection) => connection.unsubscribe(channels).await,
            Self::Cluster(connection) => {
                for channel in channels {
                    connection.sunsubscribe(channel).await?;
                }
                Ok(())
            }
        }
    }

    /// The rooms that have a log; at most so many.
    pub(crate) async fn room_names(&mut self, limit: usize) -> RedisResult<Vec<RoomName>> {
        let pattern = room_key("*", ":meta");
        let mut names = Vec::new();
        match self {
            Self::Single(connection) => {
                let mut cursor = 0u64;
                loop {
                    let mut scan = redis::cmd("SCAN");
                    scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(1_000);
                    let (next, keys): (u64, Vec<String>) = scan.query_async(connection).await?;
                    names.extend(keys);
                    cursor = next;
                    if cursor == 0 || names.len() >= limit {
                        break;
                    }
                }
            }
            // A cursor belongs to one server; the driver asks all of them only for whole answers.
            Self::Cluster(connection) => {
                names = redis::cmd("KEYS").arg(&pattern).query_async(connection).await?;
            }
        }
        // SCAN may name a key twice.
        names.sort_unstable();
        names.dedup();
        names.truncate(limit);
        let room = |key: &String| RoomName::new(key.strip_prefix("tm:{")?.strip_suffix("}:meta")?).ok();
        Ok(names.iter().filter_map(room).collect())
    }

    /// Publishes to a channel.
    pub(crate) async fn publish(&mut self, channel: &str, payload: &[u8]) -> RedisResult<()> {
        let command = if matches!(self, Self::Cluster(_)) { "SPUBLISH" } else { "PUBLISH" };
        redis::cmd(command).arg(channel).arg(payload).query_async(self).await
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(cmd, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(cmd, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_and_shown_without_their_password() {
        for (url, shown) in [
            ("redis://localhost", "redis://localhost:6379"),
            ("redis://:secret@10.0.0.1:7000/2", "redis://10.0.0.1:7000"),
            ("redis+cluster://u:secret@a:1,b:2", "redis+cluster://a:1,b:2"),
            ("redis+sentinel://a:1,b:2/main/3", "redis+sentinel://a:1,b:2"),
        ] {
            assert_eq!(format!("{:?}", Address::parse(url).unwrap()), shown);
        }
        for bad in [
            "",
            "memory",
            "redis://",
            "redis://a:b:c",
            "rediss://a",
            "redis://a/x",
            "redis+cluster://a:1/0",
            "redis+cluster://a:1,",
            "redis+sentinel://a:1",
            "redis+sentinel://a:1/m/x",
            "http://a",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
