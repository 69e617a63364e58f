//! Real `tickmesh node` and `tickmesh gateway` processes.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::NamedTempFile;

/// A running node or gateway. It is killed when it is dropped.
pub struct NodeProcess {
    id: String,
    address: SocketAddr,
    child: Child,
    /// What it writes to standard error, where that is kept.
    log: Option<NamedTempFile>,
}

impl NodeProcess {
    /// Starts a node on a free port, where everybody may do everything. Further configuration as environment variables.
    ///
    /// # Panics
    /// When the binary is not built, or does not start.
    #[must_use]
    pub fn start(id: &str, broker: &str, environment: &[(&str, &str)]) -> Self {
        Self::run(&["node"], id, broker, environment)
    }

    /// Starts a node where another one has listened.
    ///
    /// # Panics
    /// When the binary is not built, or does not start.
    #[must_use]
    pub fn start_at(address: SocketAddr, id: &str, broker: &str) -> Self {
        Self::run_at(address, &["node"], id, broker, &[], None)
    }

    /// Starts a gateway, in the same way.
    ///
    /// # Panics
    /// When the binary is not built, or does not start.
    #[must_use]
    pub fn gateway(id: &str, broker: &str, environment: &[(&str, &str)]) -> Self {
        Self::run(&["gateway"], id, broker, environment)
    }

    /// Starts a gateway where another one has listened.
    ///
    /// # Panics
    /// When the binary is not built, or does not start.
    #[must_use]
    pub fn gateway_at(address: SocketAddr, id: &str, broker: &str) -> Self {
        Self::run_at(address, &["gateway"], id, broker, &[], None)
    }

    /// Starts the test server of the Socket.IO protocol documents.
    ///
    /// # Panics
    /// When the binary is not built, or does not start.
    #[must_use]
    pub fn conformance() -> Self {
        Self::run(&["node", "--conformance", "socketio"], "c", "memory", &[])
    }

    /// Starts it with any arguments, in the same way.
    ///
    /// # Panics
    /// When the binary is not built, or does not start.
    #[must_use]
    pub fn run(command: &[&str], id: &str, broker: &str, environment: &[(&str, &str)]) -> Self {
        Self::run_at(SocketAddr::from(([127, 0, 0, 1], 0)), command, id, broker, environment, None)
    }

    /// Starts a node or gateway whose log is kept, see [`log`](Self::log). Further arguments go to the command.
    ///
    /// # Panics
    /// When the binary is not built, or does not start.
    #[must_use]
    pub fn logged(command: &[&str], id: &str, broker: &str, environment: &[(&str, &str)]) -> Self {
        let log = NamedTempFile::new().unwrap_or_else(|error| panic!("no file for the log: {error}"));
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::run_at(listen, command, id, broker, environment, Some(log))
    }

    fn run_at(
        listen: SocketAddr,
        command: &[&str],
        id: &str,
        broker: &str,
        environment: &[(&str, &str)],
        log: Option<NamedTempFile>,
    ) -> Self {
        let logs = match &log {
            Some(log) => log.reopen().map_or_else(|error| panic!("{error}"), Stdio::from),
            None if std::env::var_os("TICKMESH_TEST_LOGS").is_some() => Stdio::inherit(),
            None => Stdio::null(),
        };
        let mut child = Command::new(binary())
            .args(command)
            .args(["--listen", &listen.to_string(), "--id", id, "--broker", broker])
            .env("TICKMESH_AUTH__ANONYMOUS", "full")
            .env("TICKMESH_AUTH__JWT_SECRET", crate::SECRET)
            .env("TICKMESH_CLUSTER__LEASE_MS", "2000")
            .env("TICKMESH_CLUSTER__SECRET", crate::SECRET)
            .env("TICKMESH_NODE__WORKERS", "2")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(logs)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start the node: {error}"));
        let mut line = String::new();
        let output = child.stdout.take().unwrap_or_else(|| unreachable!("it is piped"));
        let _ = BufReader::new(output).read_line(&mut line);
        let address = line.trim().split_once("://").and_then(|(_, address)| address.parse().ok());
        let address = address.unwrap_or_else(|| panic!("{command:?} says {line:?}"));
        Self { id: id.to_owned(), address, child, log }
    }

    /// What it has written to its log so far; empty where that is not kept.
    #[must_use]
    pub fn log(&self) -> String {
        let path = self.log.as_ref().map(NamedTempFile::path);
        path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default()
    }

    /// Its name in the cluster.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the system calls it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until this gateway would place sessions on so many nodes.
    ///
    /// # Panics
    /// When that does not come.
    pub async fn places_sessions_on(&self, nodes: usize) {
        let line = format!("tickmesh_gateway_nodes {nodes}");
        crate::eventually("the gateway knows its nodes", || async {
            let metrics = crate::Sandbox::http(self.address, "GET", "/metrics", "", "").await.body;
            metrics.lines().any(|have| have == line)
        })
        .await;
    }

    /// Sends a signal, such as `-TERM`, `-STOP` or `-CONT`.
    ///
    /// # Panics
    /// When it is not running.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "{signal} is sent");
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it does not.
    pub async fn ended(&mut self) {
        assert!(self.ended_within(crate::DEADLINE).await, "{} does not end", self.id);
    }

    /// Waits so long for it to end by itself, and says whether it has.
    pub async fn ended_within(&mut self, patience: Duration) -> bool {
        let end = tokio::time::Instant::now() + patience;
        while !self.child.try_wait().is_ok_and(|status| status.is_some()) {
            if tokio::time::Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    }

    /// Ends it with no warning (SIGKILL).
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The binary beside this test's own directory.
///
/// # Panics
/// When it is not built.
#[must_use]
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_else(|error| panic!("{error}"));
    let path = test.ancestors().nth(2).map(|directory| directory.join("tickmesh")).unwrap_or_default();
    assert!(path.exists(), "{} is missing: run ./test, which builds it", path.display());
    path
}
