//! A real PostgreSQL on a free port and a directory of its own, that tests may kill, pause and start again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{Authority, DEADLINE, free_address};

/// Where Debian's packages have the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// PostgreSQL does not run as root: then it runs as this user, which Debian's packages make.
const USER: &str = "postgres";
/// Ports that are tried: between choosing one and listening there, somebody else may take it.
const PORTS: usize = 5;

/// A running server with an empty database. It is killed when it is dropped.
pub struct PostgresServer {
    programs: PathBuf,
    directory: TempDir,
    as_root: bool,
    options: Vec<String>,
    port: u16,
    child: Option<Child>,
}

impl PostgresServer {
    /// A server that keeps its data over a restart, and lets everybody in.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// A server with these settings, each `name=value`.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or does not start.
    #[must_use]
    pub fn with(settings: &[&str]) -> Self {
        let mut server = Self::prepare(settings);
        server.start_somewhere();
        server
    }

    /// A server that takes connections by TLS alone, with a certificate of this authority.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or does not start.
    #[must_use]
    pub fn with_tls(authority: &Authority) -> Self {
        authority.issue("postgres");
        let mut server = Self::prepare(&["ssl=on", "ssl_cert_file=server.pem", "ssl_key_file=server.key"]);
        let data = server.data();
        for (from, to) in [("postgres.pem", "server.pem"), ("postgres.key", "server.key")] {
            fs::copy(authority.path(from), data.join(to)).expect("a copy");
            fs::set_permissions(data.join(to), fs::Permissions::from_mode(0o600)).expect("only the owner's");
        }
        fs::write(data.join("pg_hba.conf"), "hostssl all all 127.0.0.1/32 trust\n").expect("written");
        server.give_away(&data);
        server.start_somewhere();
        server
    }

    fn prepare(settings: &[&str]) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let owner = fs::metadata(directory.path()).expect("it is there");
        let as_root = std::os::unix::fs::MetadataExt::uid(&owner) == 0;
        // What was committed is with the kernel, which outlives the server's processes.
        let options = ["fsync=off", "full_page_writes=off", "shared_buffers=16MB"];
        let options = options.iter().chain(settings).map(|text| (*text).to_owned()).collect();
        let server = Self { programs: programs(), directory, as_root, options, port: 0, child: None };
        server.give_away(server.directory.path());
        let made = server
            .command("initdb")
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync"])
            .arg("--pgdata")
            .arg(server.data())
            .output()
            .expect("initdb is started");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        server
    }

    /// Makes files those of the user as whom the server runs.
    fn give_away(&self, path: &Path) {
        if self.as_root {
            let owner = format!("{USER}:{USER}");
            let done = Command::new("chown").arg("-R").arg(owner).arg(path).status().expect("chown");
            assert!(done.success(), "there is no user {USER}: install the package postgresql");
        }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// One of its programs, as the user as whom it may run.
    fn command(&self, program: &str) -> Command {
        let path = self.programs.join(program);
        let mut command = if self.as_root {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", USER, "--regid", USER, "--clear-groups", "--"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        // That user may not be able to see where the tests run.
        command.current_dir(self.directory.path()).stdin(Stdio::null());
        command
    }

    fn start_somewhere(&mut self) {
        for _ in 0..PORTS {
            self.port = free_address().port();
            if self.try_start() {
                return;
            }
        }
        panic!("postgres does not start: {}", self.log());
    }

    /// Starts the server again after [`kill`](Self::kill), with the same data, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "still running");
        assert!(self.try_start(), "postgres does not start: {}", self.log());
    }

    #[expect(clippy::disallowed_methods, reason = "a test's own thread, between two looks at a condition")]
    fn try_start(&mut self) -> bool {
        let log = fs::File::create(self.directory.path().join("log")).expect("a log");
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        command.arg("-k").arg(self.directory.path());
        for option in &self.options {
            command.args(["-c", option]);
        }
        let mut child = command.stdout(Stdio::null()).stderr(log).spawn().expect("postgres is started");
        let end = Instant::now() + DEADLINE;
        while !self.is_ready() {
            if child.try_wait().expect("its state").is_some() {
                return false;
            }
            assert!(Instant::now() < end, "postgres does not answer: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child = Some(child);
        true
    }

    fn is_ready(&self) -> bool {
        let port = self.port.to_string();
        let mut command = self.command("pg_isready");
        let asked = command.args(["--quiet", "--host", "127.0.0.1", "--port", &port]).status();
        asked.expect("pg_isready is started").success()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Ends all its processes with no warning (SIGKILL).
    ///
    /// # Panics
    /// When they do not end.
    #[expect(clippy::disallowed_methods, reason = "a test's own thread, between two looks at a condition")]
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // Stopped, it makes no more processes.
        signal("-STOP", &[child.id()]);
        let children = children_of(child.id());
        signal("-KILL", &children);
        let _ = child.kill();
        let _ = child.wait();
        // A new server does not start before the last one has let go of the shared memory.
        let end = Instant::now() + DEADLINE;
        while children.iter().any(|pid| parent_of(*pid).is_some()) {
            assert!(Instant::now() < end, "its processes end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops all its processes from running (SIGSTOP).
    ///
    /// # Panics
    /// When it is not running.
    pub fn pause(&self) {
        let pid = self.child.as_ref().expect("running").id();
        signal("-STOP", &[pid]);
        signal("-STOP", &children_of(pid));
    }

    /// Lets them go on (SIGCONT).
    ///
    /// # Panics
    /// When it is not running.
    pub fn resume(&self) {
        let pid = self.child.as_ref().expect("running").id();
        signal("-CONT", &children_of(pid));
        signal("-CONT", &[pid]);
    }

    /// For `postgres.url`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Runs SQL by a connection of its own, and gives the answer: a line for each row, with `|` between columns.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn sql(&self, sql: &str) -> String {
        let mut command = self.command("psql");
        command.args(["--no-psqlrc", "--tuples-only", "--no-align", "--quiet", "-v", "ON_ERROR_STOP=1"]);
        let answer = command.args(["--dbname", &self.url(), "--command", sql]).output().expect("psql");
        assert!(answer.status.success(), "{sql}: {}", String::from_utf8_lossy(&answer.stderr));
        String::from_utf8_lossy(&answer.stdout).trim().to_owned()
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The programs of the newest version that is installed.
fn programs() -> PathBuf {
    let versions = fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest =
        versions.map(|entry| entry.path()).filter(|path| version(path).is_some()).max_by_key(version);
    let programs = newest.map(|path| path.join("bin")).filter(|path| path.join("initdb").exists());
    programs.unwrap_or_else(|| panic!("no PostgreSQL in {VERSIONS}: install the package postgresql"))
}

fn signal(signal: &str, pids: &[u32]) {
    if !pids.is_empty() {
        // One that has ended meanwhile is no failure.
        let pids = pids.iter().map(u32::to_string);
        let _ = Command::new("kill").arg(signal).args(pids).stderr(Stdio::null()).status().expect("kill");
    }
}

fn children_of(pid: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|child| parent_of(*child) == Some(pid)).collect()
}

/// Which process made it; none if it is gone, or waits only for somebody to notice.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it is in parentheses, and may have spaces.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    fields.next()?.parse().ok().filter(|_| state != "Z" && state != "X")
}
