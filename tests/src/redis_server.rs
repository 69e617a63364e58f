//! A real redis-server on a free port and a directory of its own, that tests may kill, pause and start again.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::DEADLINE;

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
        let address = free_address();
        let directory = TempDir::new().expect("a temporary directory");
        let arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
        let mut server = Self { address, directory, arguments, child: None };
        server.restart();
        server
    }

    /// Starts the server again after [`kill`](Self::kill), with the same data, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    #[expect(clippy::disallowed_methods, reason = "a test's own thread, between two looks at a condition")]
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "still running");
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &self.address.port().to_string(), "--dir"])
            .arg(self.directory.path())
            .args(["--loglevel", "warning"])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("redis-server cannot be started, install it: {error}"));
        self.child = Some(child);
        let end = Instant::now() + DEADLINE;
        while self.try_command(&["PING"]).as_deref() != Ok("PONG") {
            assert!(Instant::now() < end, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
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

/// An address on which nothing listens now.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address")
}
