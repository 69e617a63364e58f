//! A real redis-server on a free port and a directory of its own, that tests may kill, pause and start again.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::DEADLINE;

/// Where ports are looked for: below those that the system gives to connections that go out, since one of those could take the
/// port of a server that is away for a while, or even be connected to itself; and with room for ports that are 10,000 higher,
/// where members of a Redis Cluster talk to each other.
const PORTS: std::ops::Range<u16> = 10_000..22_000;
/// Ports that are tried: between choosing one and listening there, somebody else may take it.
const TRIES: usize = 5;

/// A running server. It is killed when it is dropped.
pub struct RedisServer {
    address: SocketAddr,
    directory: TempDir,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl RedisServer {
    /// A server that keeps nothing over a restart.
    #[must_use]
    pub fn start() -> Self {
        Self::with(&["--save", "", "--appendonly", "no"])
    }

    /// A server that writes every command to an append-only file.
    #[must_use]
    pub fn append_only() -> Self {
        Self::with(&["--save", "", "--appendonly", "yes"])
    }

    /// A server with these arguments.
    ///
    /// # Panics
    /// When redis-server is not installed or does not start.
    #[must_use]
    pub fn with(arguments: &[&str]) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        Self::start_somewhere(directory, arguments.iter().map(|text| (*text).to_owned()).collect())
    }

    /// A Sentinel with these lines of configuration, which it needs as a file that it can write to.
    fn with_configuration(lines: &[&str]) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let path = directory.path().join("sentinel.conf");
        std::fs::write(&path, lines.join("\n") + "\n").expect("its configuration");
        Self::start_somewhere(directory, vec![path.to_string_lossy().into_owned(), "--sentinel".into()])
    }

    /// Starts one of these, on a port of its own.
    fn start_somewhere(directory: TempDir, arguments: Vec<String>) -> Self {
        let mut server = Self { address: free_address(), directory, arguments, child: None };
        for _ in 0..TRIES {
            if server.try_start() {
                return server;
            }
            server.address = free_address();
        }
        panic!("redis-server does not start: {:?}", server.arguments);
    }

    /// Starts the server again after [`kill`](Self::kill), with the same data, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "still running");
        assert!(self.try_start(), "redis-server does not start again");
    }

    /// False if it ends at once, as it does when somebody else has its port.
    #[expect(clippy::disallowed_methods, reason = "a test's own thread, between two looks at a condition")]
    fn try_start(&mut self) -> bool {
        // A file of configuration is the first argument.
        let mut child = Command::new("redis-server")
            .args(&self.arguments)
            .args(["--bind", "127.0.0.1", "--port", &self.address.port().to_string(), "--dir"])
            .arg(self.directory.path())
            .args(["--loglevel", "warning"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("redis-server cannot be started, install it: {error}"));
        let end = Instant::now() + DEADLINE;
        while self.try_command(&["PING"]).as_deref() != Ok("PONG") {
            if child.try_wait().expect("its state").is_some() {
                return false;
            }
            assert!(Instant::now() < end, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        // Not another one that has the port.
        if child.try_wait().expect("its state").is_some() {
            return false;
        }
        self.child = Some(child);
        true
    }

    /// Ends the server with no warning (SIGKILL).
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it from running, as SIGSTOP does, or lets it go on.
    ///
    /// # Panics
    /// When it is not running.
    pub fn pause(&self, paused: bool) {
        let pid = self.child.as_ref().expect("running").id();
        let signal = if paused { "-STOP" } else { "-CONT" };
        let done = Command::new("kill").args([signal, &pid.to_string()]).status().expect("kill");
        assert!(done.success());
    }

    /// A server with another's data, where this one was: clients find it as they find a replica that a proxy or a virtual
    /// address leads to now.
    ///
    /// # Panics
    /// When this one still runs, or the other does not write its data.
    #[must_use]
    pub fn replaced_by(&mut self, other: &Self) -> Self {
        assert!(self.child.is_none(), "still running");
        other.command(&["SAVE"]);
        let directory = TempDir::new().expect("a temporary directory");
        std::fs::copy(other.directory.path().join("dump.rdb"), directory.path().join("dump.rdb"))
            .expect("its data");
        let arguments = vec!["--save".into(), String::new()];
        let mut server = Self { address: self.address, directory, arguments, child: None };
        server.restart();
        server
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For `broker.url`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Runs a command by a connection of its own, and gives the answer as text.
    ///
    /// # Panics
    /// When it fails.
    pub fn command(&self, command: &[&str]) -> String {
        self.try_command(command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    fn try_command(&self, command: &[&str]) -> Result<String, redis::RedisError> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_connection_with_timeout(DEADLINE)?;
        let (name, arguments) = command.split_first().expect("a command");
        let mut built = redis::cmd(name);
        for argument in arguments {
            built.arg(argument);
        }
        let value: redis::Value = built.query(&mut connection)?;
        Ok(match &value {
            redis::Value::Int(number) => number.to_string(),
            other => redis::from_redis_value_ref(other).unwrap_or_else(|_| format!("{other:?}")),
        })
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Three servers that make up a Redis Cluster.
pub struct RedisCluster {
    servers: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts them, and waits until they serve all slots.
    ///
    /// # Panics
    /// When redis-server or redis-cli is not installed, or the cluster does not come up.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "a test's own thread, between two looks at a condition")]
    pub fn start() -> Self {
        let arguments = ["--save", "", "--cluster-enabled", "yes"];
        let servers: Vec<_> = (0..3).map(|_| RedisServer::with(&arguments)).collect();
        let created = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(servers.iter().map(|server| server.address.to_string()))
            .args(["--cluster-replicas", "0", "--cluster-yes"])
            .stdout(Stdio::null())
            .status();
        assert!(created.expect("redis-cli is installed").success(), "the cluster is made");
        let end = Instant::now() + DEADLINE;
        while !servers.iter().all(|one| one.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok")) {
            assert!(Instant::now() < end, "the cluster comes up");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { servers }
    }

    /// For `broker.url`.
    #[must_use]
    pub fn url(&self) -> String {
        let addresses: Vec<_> = self.servers.iter().map(|server| server.address.to_string()).collect();
        format!("redis+cluster://{}", addresses.join(","))
    }
}

/// A Sentinel that watches a server under the name `main`.
pub struct Sentinel {
    server: RedisServer,
}

impl Sentinel {
    /// Starts it.
    ///
    /// # Panics
    /// When redis-sentinel cannot be started.
    #[must_use]
    pub fn of(master: &RedisServer) -> Self {
        let port = master.address.port();
        let monitor = format!("main 127.0.0.1 {port} 1");
        let server = RedisServer::with_configuration(&[
            &format!("sentinel monitor {monitor}"),
            "sentinel down-after-milliseconds main 2000",
            "sentinel failover-timeout main 2000",
        ]);
        Self { server }
    }

    /// For `broker.url`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis+sentinel://{}/main", self.server.address)
    }

    /// Replicas of the master that it knows.
    #[must_use]
    pub fn knows_a_replica(&self) -> bool {
        self.server.command(&["INFO", "sentinel"]).contains("slaves=1")
    }
}

/// An address on which nothing listens now.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_address() -> SocketAddr {
    let mut tries = (0..1_000).map(|_| SocketAddr::from(([127, 0, 0, 1], rand::random_range(PORTS))));
    tries.find(|address| TcpListener::bind(address).is_ok()).expect("a free port")
}
