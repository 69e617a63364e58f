//! The binary as its users start it: real processes, real signals, real sockets.

#[path = "command_line/server.rs"]
mod server;
#[path = "command_line/start.rs"]
mod start;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything: long enough for a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(60);
const SECRET: &str = "a secret of the tests, long enough";

fn tickmesh() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tickmesh"));
    // What the machine has in its environment is not part of the test.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TICKMESH_")) {
        command.env_remove(name);
    }
    command
}

fn run(args: &[&str]) -> Output {
    tickmesh().args(args).output().expect("the binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A process that serves; killed when dropped.
struct Server {
    child: Child,
    address: String,
    /// Its first line.
    first: String,
    /// The rest.
    stdout: BufReader<std::process::ChildStdout>,
}

impl Server {
    fn start(args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::start_logged(args, env, Stdio::null())
    }

    fn start_logged(args: &[&str], env: &[(&str, &str)], log: Stdio) -> Self {
        let mut command = tickmesh();
        command.args(args).envs(env.iter().copied()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().expect("the binary starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut first = String::new();
        stdout.read_line(&mut first).expect("it prints its address");
        let address =
            first.split_whitespace().next().unwrap_or_default().trim_start_matches("http://").to_owned();
        assert!(!address.is_empty(), "it serves");
        Self { child, address, first, stdout }
    }

    /// One HTTP/1.1 request by hand; the status and the body.
    fn ask(&self, request: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout can be set");
        write!(stream, "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n{body}")
            .expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    fn get_as(&self, token: &str, path: &str) -> (u16, String) {
        let credential =
            if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        self.ask(&format!("GET {path}"), &credential, "")
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.get_as("", path)
    }

    fn post(&self, path: &str, body: &str) -> (u16, String) {
        self.ask(&format!("POST {path}"), &format!("Content-Length: {}\r\n", body.len()), body)
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill is there");
        assert!(sent.success());
    }

    fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                return status;
            }
            assert!(Instant::now() < end, "it ends within {DEADLINE:?}");
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn dev_serves_the_pages_and_moving_quotes() {
    let server = Server::start(&["dev", "--listen", "127.0.0.1:0"], &[]);
    assert_eq!(server.get("/readyz").0, 200);
    for (path, assets) in [("/", ["app.js", "app.css"]), ("/dashboard", ["dashboard.js", "dashboard.css"])] {
        let (status, page) = server.get(path);
        assert_eq!(status, 200, "{page}");
        for asset in assets {
            // Named beside the page, so that it works under any path of a proxy.
            assert!(page.contains(&format!("=\"{asset}\"")), "{path} names {asset}");
            assert_eq!(server.get(&format!("/{asset}")).0, 200, "{asset}");
        }
    }
    let seqs = || -> u64 {
        let rooms: Value = serde_json::from_str(&server.get("/api/v1/rooms").1).expect("JSON");
        let rooms = rooms["rooms"].as_array().expect("a list").clone();
        rooms
            .iter()
            .filter(|room| room["room"].as_str().is_some_and(|name| name.starts_with("market_")))
            .filter_map(|room| room["seq"].as_u64())
            .sum()
    };
    let (start, end) = (seqs(), Instant::now() + DEADLINE);
    while seqs() < start + 10 {
        assert!(Instant::now() < end, "quotes move");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    // They are of now, in their own words too, though the file is of years ago.
    let history = server.get("/api/v1/rooms/market_EURUSD/history?limit=1").1;
    let history: Value = serde_json::from_str(&history).expect("JSON");
    let newest = &history["messages"][0];
    let at = newest["data"]["ts"].as_u64().expect("a time");
    let told = newest["timestamp"].as_u64().expect("a time");
    assert!(at.abs_diff(told) < DEADLINE.as_millis() as u64, "{newest}");
}

#[test]
fn stores_that_a_node_refuses_are_refused_by_the_check_in_the_same_words() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("a path");
    let mut bad = vec![
        ("[postgres]\nurl = \"postgres://u:hunter2@/db\"", "postgres.url"),
        ("[postgres]\nurl = \"postgres:///db\"", "postgres.url"),
    ];
    let mut good = vec![
        "[postgres]\nurl = \"postgres://u:pw@host/db?sslmode=require\"\ntls_ca = \"/of/another/machine\"",
    ];
    let tdengine = "[tdengine]\ndsn = \"taos+ws://root:hunter2@host:6041/db\"";
    std::fs::write(file.path(), tdengine).expect("written");
    // Other packages of the workspace may have had the driver built in.
    if text(&run(&["config", "check", path]).stderr).contains("without the feature") {
        bad.push((tdengine, "build one that has it with `cargo build --profile dist --features tdengine`"));
    } else {
        good.push(tdengine);
        bad.extend([
            ("[tdengine]\ndsn = \"wss://root:hunter2@host:6041/db\"", "taos+ws://"),
            ("[tdengine]\ndsn = \"taos://root:hunter2@host:6030/db\"", "taos+ws://"),
            ("[tdengine]\ndsn = \"ws://root:hunter2@host:6041/Prices\"", "the database's name"),
        ]);
    }
    for (section, named) in bad {
        std::fs::write(file.path(), section).expect("written");
        let checked = run(&["config", "check", path]);
        let started = run(&["node", "--listen", "127.0.0.1:0", "--config", path]);
        let said = text(&checked.stderr);
        assert_eq!((checked.status.code(), started.status.code()), (Some(64), Some(64)), "{section}: {said}");
        assert!(said.contains(named) && !said.contains("hunter2"), "{section}: {said}");
        let last = said.lines().last().expect("a line");
        assert!(text(&started.stderr).contains(last), "{section}: {last} in {}", text(&started.stderr));
    }
    for good in good {
        std::fs::write(file.path(), good).expect("written");
        let checked = run(&["config", "check", path]);
        assert_eq!(checked.status.code(), Some(0), "{good}: {}", text(&checked.stderr));
    }
}

/// What a health check sees: the exit status, and the one line that says why.
fn health(args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String) {
    let output =
        tickmesh().arg("health").args(args).envs(env.iter().copied()).output().expect("the binary starts");
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn health_is_that_of_the_process_and_readiness_is_another_question() {
    let node: &[&str] = &["node", "--listen", "127.0.0.1:0"];
    // Nobody answers there: it lives, but is not ready.
    let redis = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let broker = format!("redis://{}", redis.local_addr().expect("its address"));
    let waiting = Server::start(&[node, &["--broker", &broker]].concat(), &[]);
    assert_eq!(health(&["--listen", &waiting.address], &[]), (Some(0), "ok\n".into()));
    let (status, said) = health(&["--ready", "--listen", &waiting.address], &[]);
    assert!(status == Some(1) && said.contains("/readyz: "), "{status:?} {said}");

    let node = Server::start(node, &[]);
    // As in an image: by the configuration of the process, which listens on every address.
    let port = node.address.rsplit_once(':').expect("a port").1;
    let env = [("TICKMESH_NODE__LISTEN", &*format!("0.0.0.0:{port}"))];
    assert_eq!(health(&["--ready"], &env), (Some(0), "ready\n".into()));
    drop(node);
    assert_eq!(health(&[], &env).0, Some(1));
    assert_eq!(health(&["--listen", "nowhere"], &[]).0, Some(64));
}

#[test]
fn health_by_tls_trusts_the_certificate_that_is_configured_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let pair = |name: &str| {
        let made = rcgen::generate_simple_self_signed(["node.example".to_owned()]).expect("a certificate");
        let file = |kind: &str, pem: String| {
            let path = directory.path().join(format!("{name}.{kind}"));
            std::fs::write(&path, pem).expect("written");
            path.to_str().expect("a path").to_owned()
        };
        (file("cert", made.cert.pem()), file("key", made.signing_key.serialize_pem()))
    };
    let (certificate, key) = pair("own");
    let env = [("TICKMESH_SERVER__TLS_CERTIFICATE", &*certificate), ("TICKMESH_SERVER__TLS_KEY", &*key)];
    let node = Server::start(&["node", "--listen", "127.0.0.1:0"], &env);
    let address = node.address.trim_start_matches("https://");
    assert_eq!(health(&["--ready", "--listen", address], &env), (Some(0), "ready\n".into()));
    let (other, key) = pair("other");
    let env = [("TICKMESH_SERVER__TLS_CERTIFICATE", &*other), ("TICKMESH_SERVER__TLS_KEY", &*key)];
    assert_eq!(health(&["--listen", address], &env).0, Some(1), "what listens there is something else");
}

#[test]
fn a_clean_stop_is_status_0_and_a_second_signal_does_not_wait() {
    let node: &[&str] = &["node", "--listen", "127.0.0.1:0"];
    let mut server = Server::start(node, &[("TICKMESH_AUTH__ANONYMOUS", "full")]);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));

    // A client that never answers the close keeps a draining node busy.
    let server = &mut Server::start(
        node,
        &[("TICKMESH_AUTH__ANONYMOUS", "full"), ("TICKMESH_SERVER__SHUTDOWN_TIMEOUT_MS", "120000")],
    );
    let mut client = TcpStream::connect(&server.address).expect("it listens");
    write!(
        client,
        "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .expect("it reads");
    client.set_read_timeout(Some(DEADLINE)).expect("a timeout can be set");
    let mut first = [0; 12];
    client.read_exact(&mut first).expect("it answers");
    assert_eq!(&first, b"HTTP/1.1 101");
    server.signal("TERM");
    server.signal("INT");
    server.wait();
}

#[test]
fn what_cannot_be_used_is_status_64_and_names_the_key() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "[limits]\nmax_connections = 0\nmax_conections = 5\n").expect("written");
    let path = file.path().to_str().expect("a path");
    let output = run(&["config", "check", path]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{said}");
    for word in ["limits.max_connections", "0", "limits.max_conections", path] {
        assert!(said.contains(word), "{word} in: {said}");
    }
    for args in
        [&["node", "--listen", "nowhere"][..], &["--no-such-flag"], &["node", "--config", "/no/such/file"]]
    {
        let output = run(args);
        assert_eq!(output.status.code(), Some(64), "{args:?}: {}", text(&output.stderr));
    }
    let output = tickmesh()
        .args(["node", "--listen", "127.0.0.1:0"])
        .envs([("TICKMESH_AUTH__JWT_ALGORITHM", "RS256"), ("TICKMESH_AUTH__JWT_KEY_FILE", "/no/such/key")])
        .output()
        .expect("the binary starts");
    assert_eq!(output.status.code(), Some(64), "a key file that is not there: {}", text(&output.stderr));
}

#[test]
fn a_node_drains_itself_by_its_own_configuration() {
    let drain = |env: &[(&str, &str)]| {
        let mut command = tickmesh();
        command.args(["node", "drain", "--self", "--wait", "5s"]).envs(env.iter().copied());
        let output = command.output().expect("the binary starts");
        (output.status.code(), text(&output.stderr))
    };
    let (status, said) = drain(&[]);
    assert!(status == Some(64) && said.contains("node.id"), "{said}");
    let (status, said) = drain(&[("TICKMESH_NODE__ID", "n1")]);
    assert!(status == Some(64) && said.contains("auth.jwt_secret"), "{said}");
    for output in [run(&["node", "drain"]), run(&["node", "drain", "n1", "--self"])] {
        assert_eq!(output.status.code(), Some(64), "{}", text(&output.stderr));
    }

    let key = format!("[{{ name = \"hook\", key = \"{SECRET}\", role = \"operator\" }}]");
    for (variable, value) in [("TICKMESH_AUTH__JWT_SECRET", SECRET), ("TICKMESH_AUTH__API_KEYS", &key)] {
        let server = Server::start(&["node", "--listen", "127.0.0.1:0", "--id", "n1"], &[(variable, value)]);
        let mut env = vec![("TICKMESH_NODE__ID", "n1"), ("TICKMESH_NODE__LISTEN", &server.address)];
        let (status, said) =
            drain(&[&env[..], &[("TICKMESH_AUTH__JWT_SECRET", "another secret, as long")]].concat());
        assert!(status == Some(1) && said.contains("401"), "{said}");
        assert_eq!(server.get("/readyz").0, 200);
        env.push((variable, value));
        assert_eq!(drain(&env), (Some(0), String::new()));
        assert_eq!(server.get("/readyz").0, 503, "draining is not ready");
        assert_eq!(server.get("/healthz").0, 200, "draining is alive");
    }
}

#[test]
fn the_printed_defaults_are_a_valid_configuration_that_lets_nobody_in() {
    let output = run(&["config", "default"]);
    assert_eq!(output.status.code(), Some(0));
    let file = tempfile::NamedTempFile::new().expect("a file");
    let check = |contents: &str| {
        std::fs::write(file.path(), contents).expect("written");
        let output = run(&["config", "check", file.path().to_str().expect("a path")]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    let defaults = text(&output.stdout);
    assert!(check(&defaults).contains("nobody can connect"));
    let secret = format!("jwt_secret = \"{SECRET}\"");
    assert_eq!(check(&defaults.replace("jwt_secret = \"\"", &secret)), "");
    let server = Server::start(&["node", "--listen", "127.0.0.1:0"], &[]);
    assert_eq!(server.get("/readyz").0, 200);
    assert_eq!(server.get("/api/v1/rooms").0, 401);
}

#[test]
fn a_file_is_fed_whole_and_in_order_and_bad_rows_are_named() {
    let node: &[&str] = &["node", "--listen", "127.0.0.1:0"];
    let server = Server::start(node, &[("TICKMESH_AUTH__JWT_SECRET", SECRET)]);
    let token = run(&["token", "--user", "feed", "--role", "publisher", "--secret", SECRET]);
    let token = text(&token.stdout).trim().to_owned();

    let mut file = tempfile::NamedTempFile::new().expect("a file");
    writeln!(file, "ts_ms,symbol,exchange,event,price,volume,bid_price,bid_volume,ask_price,ask_volume")
        .expect("written");
    for n in 0..500 {
        writeln!(file, "{},EURUSD,FX,quote,,,1.12{n:04},,1.13{n:04},", 1_577_916_000_000u64 + n)
            .expect("written");
    }
    writeln!(file, "1577916000501,EURUSD,FX,quote,,,not a number,,1.1,").expect("written");
    writeln!(file, "1577916000502,EURUSD,FX,rumour,1.1,,,,,").expect("written");
    let path = file.path().to_str().expect("a path");
    let output = run(&[
        "feed",
        "--file",
        path,
        "--speed",
        "0",
        "--via",
        &format!("http://{}", server.address),
        "--token",
        &token,
    ]);
    let said = text(&output.stderr) + &text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for word in ["502", "503", "2 rows skipped"] {
        assert!(said.contains(word), "{word} in: {said}");
    }
    let path = "/api/v1/rooms/market_EURUSD/history?since_seq=0&limit=10000";
    let (status, body) = server.get_as(&token, path);
    assert_eq!(status, 200, "{body}");
    let history: Value = serde_json::from_str(&body).expect("JSON");
    let messages = history["messages"].as_array().expect("a list");
    assert_eq!(messages.len(), 500);
    for (n, message) in messages.iter().enumerate() {
        assert_eq!(message["seq"], n as u64 + 1);
        assert!(body.contains(&format!("1.12{n:04}")), "prices keep their digits");
    }
}

/// Slow: four measurements of a second or more each.
#[test]
fn bench_measures_and_checks_a_running_node() {
    let server = Server::start(&["dev", "--listen", "127.0.0.1:0", "--no-feed", "--nodes", "1"], &[]);
    let url = format!("ws://{}", server.address);
    let json = |args: &[&str]| -> Value {
        let output = run(&[args, &["--via", &url, "--json"]].concat());
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    };
    json(&["bench", "rpc", "--conns", "4", "--duration", "1s", "--warmup", "0s"]);
    let fanout = json(&["bench", "fanout", "--subs", "10", "--rate", "50", "--duration", "1s"]);
    for zero in ["lost", "duplicated", "out_of_order"] {
        assert_eq!(find(&fanout, zero), Some(0), "{zero}: {fanout}");
    }
    let beside = ["--returning", "50", "--lagging", "5", "--slow", "1", "--duration", "4s"];
    let fanout = json(&[&["bench", "fanout", "--subs", "10", "--rate", "50"][..], &beside].concat());
    assert_eq!(find(&fanout, "not_back"), Some(0), "{fanout}");
    assert!(find(&fanout, "lagging_received") > Some(0), "{fanout}");
    json(&["bench", "idle", "--conns", "20", "--hold", "1s"]);
}

/// The number under a key, wherever it is.
fn find(value: &Value, key: &str) -> Option<u64> {
    match value {
        Value::Object(map) => {
            map.get(key).and_then(Value::as_u64).or_else(|| map.values().find_map(|v| find(v, key)))
        }
        _ => None,
    }
}

#[test]
fn a_feed_that_cannot_work_is_refused_at_once() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    writeln!(file, "ts_ms,symbol,exchange,event,price,volume,bid_price,bid_volume,ask_price,ask_volume")
        .expect("written");
    writeln!(file, "1,A,X,trade,1.10,,,,,").expect("written");
    let path = file.path().to_str().expect("a path");
    for args in [&["--via", "127.0.0.1:8080"][..], &["--via", "https://h"], &["--token", "two\nlines"]] {
        let output = run(&[&["feed", "--file", path], args].concat());
        assert_eq!(output.status.code(), Some(64), "{args:?}: {}", text(&output.stderr));
    }
}

#[test]
fn the_demo_feed_can_be_published_to_any_cluster() {
    let server = Server::start(&["node", "--listen", "127.0.0.1:0"], &[("TICKMESH_AUTH__ANONYMOUS", "full")]);
    let to = format!("http://{}", server.address);
    let output = run(&["feed", "--demo", "--speed", "0", "--via", &to]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let rooms: Value = serde_json::from_str(&server.get("/api/v1/rooms/market_EURUSD").1).expect("JSON");
    assert!(rooms["seq"].as_u64().is_some_and(|seq| seq > 0), "{rooms}");
    assert_eq!(run(&["feed", "--demo", "--file", "x"]).status.code(), Some(64));
    assert_eq!(run(&["feed"]).status.code(), Some(64));
}

/// A server that answers fewer results than there were messages has not kept them.
#[test]
fn a_feed_counts_only_what_was_answered() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let to = format!("http://{}", listener.local_addr().expect("its address"));
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut request = String::new();
        while !request.contains("]}") {
            let mut bytes = [0; 4_096];
            let read = stream.read(&mut bytes).expect("a request");
            assert!(read > 0, "the whole request");
            request.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
        let answer = r#"{"results":[]}"#;
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len())
            .expect("it reads");
    });
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    writeln!(file, "ts_ms,symbol,exchange,event,price,volume,bid_price,bid_volume,ask_price,ask_volume")
        .expect("written");
    writeln!(file, "1,A,X,trade,1.10,,,,,").expect("written");
    let output = run(&["feed", "--file", file.path().to_str().expect("a path"), "--via", &to]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("0 answers to 2 messages"), "{}", text(&output.stderr));
    server.join().expect("the server saw one request");
}

#[test]
fn what_is_effective_is_shown_with_where_it_comes_from() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "[tuning]\nprofile = \"large\"\n[limits]\nstale_s = 1\n").expect("written");
    let path = file.path().to_str().expect("a path");
    let output = tickmesh()
        .args(["config", "effective", "--config", path])
        .env("TICKMESH_LIMITS__MAX_IN_FLIGHT", "9")
        .env("TICKMESH_AUTH__JWT_SECRET", SECRET)
        .output()
        .expect("the binary starts");
    let shown = text(&output.stdout);
    for line in [
        format!("profile = \"large\"  # file {path}"),
        "max_connections = 5000  # profile large".into(),
        format!("stale_s = 1  # file {path}"),
        "max_in_flight = 9  # environment TICKMESH_LIMITS__MAX_IN_FLIGHT".into(),
        "max_subscriptions = 1000  # default".into(),
        "jwt_secret = \"***\"  # environment TICKMESH_AUTH__JWT_SECRET".into(),
    ] {
        assert!(shown.lines().any(|have| have == line), "{line}: {shown}");
    }
}
