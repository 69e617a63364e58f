//! `tickmesh top` shows a real cluster, in plain lines and in a terminal, and leaves the terminal as it was.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::json;
use tickmesh_tests::{
    Authority, Client, NodeProcess, RedisServer, Sandbox, Terminal, binary, eventually, free_address, token,
};

fn top(via: &str) -> Command {
    let mut command = Command::new(binary());
    command.env_remove("TICKMESH_TOKEN").args(["top", "--via", via]);
    command
}

fn via(process: &NodeProcess) -> String {
    format!("http://{}", process.address())
}

fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("the binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `top` with its output in a pipe; killed when dropped.
struct Blocks {
    child: Child,
    last: Arc<Mutex<String>>,
    all: Arc<Mutex<String>>,
}

impl Blocks {
    fn of(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the binary starts");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let (last, all) = (Arc::new(Mutex::new(String::new())), Arc::new(Mutex::new(String::new())));
        let (told, kept) = (last.clone(), all.clone());
        std::thread::spawn(move || {
            let mut block = String::new();
            for line in lines.map_while(Result::ok) {
                kept.lock().push_str(&(line.clone() + "\n"));
                if line.is_empty() {
                    *told.lock() = std::mem::take(&mut block);
                } else {
                    block.push_str(&(line + "\n"));
                }
            }
        });
        Self { child, last, all }
    }

    /// Waits for a block that has lines that begin so, and none that begins as those.
    async fn comes(&self, has: &[&str], lacks: &[&str]) {
        eventually(&format!("a block with {has:?} and without {lacks:?}"), || async {
            let block = self.last.lock();
            let any = |start: &&str| block.lines().any(|line| line.starts_with(start));
            has.iter().all(any) && !lacks.iter().any(any)
        })
        .await;
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What stands in a column of the first line of a kind.
fn field(block: &str, kind: &str, column: &str) -> Option<String> {
    let names = block.lines().find_map(|line| line.strip_prefix(&format!("#{kind} ")))?;
    let at = names.split(' ').position(|name| name == column)?;
    let values = block.lines().find_map(|line| line.strip_prefix(&format!("{kind} ")))?;
    values.split(' ').nth(at).map(str::to_owned)
}

#[tokio::test]
async fn plain_lines_show_both_nodes_and_that_one_is_killed() {
    let redis = RedisServer::start();
    let _a = NodeProcess::start("a", &redis.url(), &[]);
    let mut b = NodeProcess::start("b", &redis.url(), &[]);
    let gateway = NodeProcess::gateway("g", &redis.url(), &[]);
    gateway.places_sessions_on(2).await;
    let blocks = Blocks::of(top(&via(&gateway)).args(["--interval", "200ms"]));
    blocks.comes(&["process a node up ", "process b node up ", "process g gateway up "], &[]).await;
    let block = blocks.last.lock().clone();
    assert_eq!(field(&block, "cluster", "nodes").as_deref(), Some("2"), "{block}");
    assert_eq!(field(&block, "cluster", "gateways").as_deref(), Some("1"), "{block}");
    let memory = field(&block, "process", "memory_bytes").and_then(|bytes| bytes.parse::<u64>().ok());
    assert!(memory.is_some_and(|bytes| bytes > 1 << 20), "{block}");
    let names = block.lines().find(|line| line.starts_with("#process ")).expect("names of columns");
    for line in block.lines().filter(|line| line.starts_with("process ")) {
        assert_eq!(line.split(' ').count(), names.split(' ').count(), "{line}");
    }

    // What only vitals tell.
    let mut client = Client::connect(gateway.address(), "").await;
    client.subscribe("market_1", json!({})).await;
    eventually("the room that is busy", || async {
        let body = json!({"room": "market_1", "event": "quote", "data": 1}).to_string();
        Sandbox::http(gateway.address(), "POST", "/api/v1/publish", "", &body).await;
        blocks.last.lock().contains("\nroom market_1 ")
    })
    .await;
    let block = blocks.last.lock().clone();
    for column in ["published_per_s", "delivered_per_s", "worst_p99_ms", "alarms"] {
        let value = field(&block, "cluster", column).and_then(|value| value.parse::<f64>().ok());
        assert!(value.is_some(), "{column}: {block}");
    }

    b.kill();
    blocks.comes(&["process a node up ", "process g gateway up "], &["process b "]).await;
    let lost = || {
        blocks
            .all
            .lock()
            .lines()
            .filter(|line| line.starts_with("event ") && line.contains(" node_lost b "))
            .count()
    };
    eventually("the loss is told", || async { lost() > 0 }).await;
    assert_eq!(field(&blocks.last.lock(), "cluster", "nodes").as_deref(), Some("1"));
    blocks.comes(&["alarm "], &[]).await;
    assert_eq!(lost(), 1, "once");
}

#[tokio::test]
async fn once_is_one_block_and_failure_is_status_1() {
    let node = NodeProcess::start("a", "memory", &[]);
    let once = output(top(&via(&node)).arg("--once"));
    let said = text(&once.stdout);
    assert_eq!(once.status.code(), Some(0), "{}", text(&once.stderr));
    assert_eq!(said.matches("\n\n").count(), 1, "{said}");
    assert!(said.ends_with("\n\n") && said.contains("process a node up "), "{said}");

    let away = output(top(&format!("http://{}", free_address())).arg("--once"));
    assert_eq!((away.status.code(), text(&away.stdout).as_str()), (Some(1), ""));
    assert!(text(&away.stderr).contains("nobody answers at http://"), "{}", text(&away.stderr));
    for wrong in [&["--interval", "1ms"][..], &["--sort", "beauty"], &["--token", "two\nlines"]] {
        assert_eq!(output(top(&via(&node)).args(wrong)).status.code(), Some(64), "{wrong:?}");
    }
    assert_eq!(output(&mut top("127.0.0.1:8080")).status.code(), Some(64));
}

#[tokio::test]
async fn who_may_not_look_is_told_so_and_the_terminal_is_left_alone() {
    let node = NodeProcess::start("a", "memory", &[("TICKMESH_AUTH__ANONYMOUS", "none")]);
    for (key, word) in
        [("", "401"), ("nonsense", "401"), (&*token("u", "user"), "403"), (&*token("p", "publisher"), "403")]
    {
        // Not asked once: it does not go on trying.
        let lines = output(top(&via(&node)).env("TICKMESH_TOKEN", key));
        assert_eq!(lines.status.code(), Some(1), "{word}");
        assert!(text(&lines.stderr).contains(word), "{word}: {}", text(&lines.stderr));

        let mut terminal = Terminal::run(top(&via(&node)).env("TICKMESH_TOKEN", key), 120, 24);
        assert_eq!(terminal.ended().await.code(), Some(1));
        terminal.shows("why it ended", |text| text.contains("tickmesh: ") && text.contains(word)).await;
        assert!(terminal.restored(), "{word}");
    }
    let operator = output(top(&via(&node)).args(["--once", "--token", &token("root", "operator")]));
    assert!(text(&operator.stdout).contains("process a node up "), "{}", text(&operator.stderr));
}

#[tokio::test]
async fn tls_is_trusted_by_the_authority_that_is_named() {
    let authority = Authority::new();
    authority.issue("server");
    let certificate = authority.text("server.pem");
    let key = authority.text("server.key");
    let tls = [("TICKMESH_SERVER__TLS_CERTIFICATE", &*certificate), ("TICKMESH_SERVER__TLS_KEY", &*key)];
    let node = NodeProcess::start("a", "memory", &tls);
    let url = format!("https://{}", node.address());
    let trusted = output(top(&url).args(["--once", "--ca", &authority.text("ca.pem")]));
    assert!(text(&trusted.stdout).contains("process a node up "), "{}", text(&trusted.stderr));
    let by_others = output(top(&url).arg("--once"));
    assert_eq!(by_others.status.code(), Some(1));
    assert!(text(&by_others.stderr).contains(&url), "{}", text(&by_others.stderr));
}

#[tokio::test]
async fn in_a_terminal_keys_sort_and_q_restores_the_screen() {
    let redis = RedisServer::start();
    let nodes = ["a", "b"].map(|id| NodeProcess::start(id, &redis.url(), &[]));
    let mut terminal = Terminal::run(&mut top(&via(&nodes[0])), 100, 30);
    let order = |text: &str| -> Vec<String> {
        let rows = text.lines().filter(|line| line.starts_with("a ") || line.starts_with("b "));
        rows.map(|row| row[..1].to_owned()).collect()
    };
    terminal.shows("both nodes, by kind", |text| order(text) == ["a", "b"] && text.contains("kind▲")).await;
    assert!(terminal.taken_over());
    terminal.press("i");
    terminal.shows("by name", |text| order(text) == ["a", "b"] && text.contains("id▲")).await;
    terminal.press("r");
    terminal.shows("the other way round", |text| order(text) == ["b", "a"] && text.contains("id▼")).await;
    terminal.press("u");
    terminal.shows("by CPU", |text| text.contains("cpu%▼")).await;
    terminal.press("?");
    terminal.shows("help", |text| text.contains("the other way round")).await;
    // Escape is no key before the terminal has been quiet after it.
    terminal.press("\u{1b}");
    terminal.shows("the table again", |text| text.contains("cpu%▼")).await;
    terminal.resize(60, 12);
    terminal.shows("fewer columns", |text| !text.contains("since") && order(text).len() == 2).await;
    assert!(terminal.text().lines().count() <= 12);
    terminal.press("q");
    assert_eq!(terminal.ended().await.code(), Some(0));
    eventually("the screen is as it was", || async { terminal.restored() }).await;
    assert_eq!(terminal.text().trim(), "", "nothing of it is left");
}

#[tokio::test]
async fn a_signal_restores_the_screen_too() {
    let node = NodeProcess::start("a", "memory", &[]);
    for signal in ["-TERM", "-INT", "-HUP"] {
        let mut terminal = Terminal::run(&mut top(&via(&node)), 80, 24);
        terminal.shows("the node", |text| text.lines().any(|line| line.starts_with("a "))).await;
        assert!(terminal.taken_over());
        terminal.signal(signal);
        assert_eq!(terminal.ended().await.code(), Some(0), "{signal}");
        eventually("the screen is as it was", || async { terminal.restored() }).await;
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_tried_again_and_keys_do_not_wait_for_it() {
    let address = free_address();
    let url = format!("http://{address}");
    let mut terminal = Terminal::run(top(&url).args(["--interval", "200ms"]), 120, 24);
    terminal.shows("trouble", |text| text.contains("since ") && text.contains("/api/v1/cluster: ")).await;
    let mut node = NodeProcess::start_at(address, "a", "memory");
    let there = |text: &str| text.lines().any(|line| line.starts_with("a ")) && !text.contains("/api/");
    terminal.shows("the node, and no trouble", there).await;

    // It takes connections and says nothing: that is known after the time-out only.
    node.signal("-STOP");
    terminal.press("i");
    terminal.shows("sorted meanwhile", |text| text.contains("id▲")).await;
    terminal.shows("a time-out", |text| text.contains(", figures of ") && text.contains("a  ")).await;
    node.signal("-CONT");
    terminal.shows("news", |text| !text.contains(", figures of ")).await;
    node.kill();
    terminal.shows("trouble again", |text| text.contains(", figures of ")).await;
    terminal.press("\u{3}");
    assert_eq!(terminal.ended().await.code(), Some(0));
}
