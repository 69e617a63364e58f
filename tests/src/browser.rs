//! A page in headless Chromium, as somebody uses it: `tests/web/driver.mjs` drives it, which `./test` installs; and what serves
//! the pages.

use std::io::BufRead;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::{Client, DEADLINE, NodeProcess, RedisServer, Sandbox, binary};

/// Two nodes, and a gateway that serves both pages.
pub struct PageCluster {
    /// What they share.
    pub server: RedisServer,
    /// `n1` and `n2`.
    pub nodes: Vec<NodeProcess>,
    /// `g1`
    pub gateway: NodeProcess,
}

impl PageCluster {
    /// Starts it, and waits until the gateway knows both nodes.
    pub async fn start(environment: &[(&str, &str)]) -> Self {
        let server = RedisServer::start();
        let start = |n| NodeProcess::start(&format!("n{n}"), &server.url(), environment);
        let nodes: Vec<_> = (1..=2).map(start).collect();
        let gateway = NodeProcess::run(&["gateway", "--page"], "g1", &server.url(), environment);
        gateway.places_sessions_on(2).await;
        Self { server, nodes, gateway }
    }

    /// Where the gateway has a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.gateway.address())
    }

    /// Clients of the gateway that follow `market_ACME`.
    pub async fn clients(&self, count: usize, query: &str) -> Vec<Client> {
        let mut clients = Vec::new();
        for _ in 0..count {
            let mut client = Client::connect(self.gateway.address(), query).await;
            client.subscribe("market_ACME", json!({})).await;
            clients.push(client);
        }
        clients
    }

    /// Publishes a quote.
    pub async fn publish(&self, room: &str, data: Value) {
        publish(self.gateway.address(), room, data).await;
    }
}

/// Publishes a quote at a node or gateway.
///
/// # Panics
/// When it is not accepted.
pub async fn publish(address: SocketAddr, room: &str, data: Value) {
    let body = json!({"room": room, "event": "quote", "data": data}).to_string();
    let answer = Sandbox::http(address, "POST", "/api/v1/publish", "", &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// A running `tickmesh dev`. It is killed when it is dropped.
pub struct Dev {
    address: SocketAddr,
    child: std::process::Child,
    /// It goes on writing there.
    _output: std::io::BufReader<std::process::ChildStdout>,
}

impl Dev {
    /// Starts it on a free port.
    ///
    /// # Panics
    /// When the binary is not built, or does not start.
    #[must_use]
    pub fn start(arguments: &[&str]) -> Self {
        let mut child = std::process::Command::new(binary())
            .args(["dev", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("tickmesh dev: {error}"));
        let output = child.stdout.take().unwrap_or_else(|| unreachable!("it is piped"));
        let mut output = std::io::BufReader::new(output);
        let address = loop {
            let mut line = String::new();
            let read = output.read_line(&mut line).unwrap_or_default();
            assert!(read > 0, "tickmesh dev ends");
            let named = line.split_whitespace().find_map(|word| word.strip_prefix("http://"));
            if let Some(address) = named.and_then(|address| address.trim_end_matches('/').parse().ok()) {
                break address;
            }
        };
        Self { address, child, _output: output }
    }

    /// Where its gateway listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its gateway has a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running browser with one page. It is killed when it is dropped.
pub struct Browser {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Browser {
    /// Starts it.
    ///
    /// # Panics
    /// When Chromium, Node.js or the driver's packages are not installed.
    #[must_use]
    pub fn start() -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("web");
        let installed = here.join("node_modules/playwright-core");
        assert!(installed.exists(), "{} is missing: run ./test, which installs it", installed.display());
        let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".to_owned());
        assert!(Path::new(&chromium).exists(), "{chromium} is missing: run ./test, which installs it");
        let mut child = Command::new("node")
            .arg(here.join("driver.mjs"))
            .arg(chromium)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("node: {error}"));
        let input = child.stdin.take().unwrap_or_else(|| unreachable!("it is piped"));
        let output = child.stdout.take().unwrap_or_else(|| unreachable!("it is piped"));
        Self { _child: child, input, output: BufReader::new(output).lines() }
    }

    /// Does what a command of the driver says, and gives its answer.
    ///
    /// # Panics
    /// When it cannot be done.
    pub async fn command(&mut self, command: Value) -> Value {
        let line = format!("{command}\n");
        self.input.write_all(line.as_bytes()).await.unwrap_or_else(|error| panic!("the browser: {error}"));
        let answer = timeout(DEADLINE * 2, self.output.next_line()).await;
        let answer = answer.unwrap_or_else(|_| panic!("no answer to {command}"));
        let answer = answer.ok().flatten().unwrap_or_else(|| panic!("the browser ended at {command}"));
        let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
        let page = answer["page"].as_str().unwrap_or_default();
        assert!(answer.get("error").is_none(), "{command}: {}\nthe page says:\n{page}", answer["error"]);
        answer["ok"].clone()
    }

    /// Opens an address in a new profile: nothing is kept of what was there before.
    pub async fn open(&mut self, url: &str) {
        self.command(json!({"command": "open", "url": url})).await;
    }

    /// The value of an expression in the page.
    pub async fn evaluate(&mut self, script: &str) -> Value {
        self.command(json!({"command": "evaluate", "script": script})).await
    }

    /// Waits until an expression in the page is true.
    pub async fn until(&mut self, script: &str) {
        self.command(json!({"command": "until", "script": script})).await;
    }

    /// Waits until an element is shown and has a text.
    pub async fn until_text(&mut self, selector: &str, text: &str) {
        let (selector, text) = (json!(selector), json!(text));
        self.until(&format!(
            "[...document.querySelectorAll({selector})].some((one) => one.checkVisibility() && one.textContent.includes({text}))"
        ))
        .await;
    }

    /// Clicks an element.
    pub async fn click(&mut self, selector: &str) {
        self.command(json!({"command": "click", "selector": selector})).await;
    }

    /// Writes into a field.
    pub async fn fill(&mut self, selector: &str, text: &str) {
        self.command(json!({"command": "fill", "selector": selector, "text": text})).await;
    }

    /// Presses a key.
    pub async fn press(&mut self, key: &str) {
        self.command(json!({"command": "press", "key": key})).await;
    }

    /// What axe finds that keeps somebody from using the page: impacts "serious" and "critical".
    pub async fn barriers(&mut self) -> Value {
        self.command(json!({"command": "accessible"})).await
    }

    /// Requests to other hosts, errors of scripts and violations of the page's policy, since it was opened.
    pub async fn misdeeds(&mut self) -> Value {
        self.command(json!({"command": "misdeeds"})).await
    }

    /// Asserts that there are no [`misdeeds`](Self::misdeeds).
    ///
    /// # Panics
    /// When there are.
    pub async fn is_well(&mut self) {
        assert_eq!(self.misdeeds().await, json!([]));
    }

    /// WebSockets that the page has made since it was opened.
    pub async fn sockets(&mut self) -> Value {
        self.command(json!({"command": "sockets"})).await
    }
}
