//! A real Prometheus on a free port, with the alarm rules of a deployment in a hurry: what takes minutes there takes
//! seconds here.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, sleep, timeout};

use crate::{DEADLINE, free_address};

/// Between two scrapes of a target, and between two evaluations of the rules.
const INTERVAL: &str = "1s";
/// What every `for` becomes: three scrapes in a row.
const FOR: &str = "2s";
/// What every range becomes: as many scrapes as it needs on a busy machine.
const RANGE: &str = "10s";

/// A running Prometheus. It is killed when it is dropped.
pub struct PrometheusServer {
    address: SocketAddr,
    directory: TempDir,
    child: Child,
}

/// The rules, with every `for` and range shortened, and these texts replaced: for thresholds that a test cannot reach.
///
/// # Panics
/// When a text is not in the rules.
#[must_use]
pub fn hurried(rules: &str, replaced: &[(&str, &str)]) -> String {
    let mut rules = rules.to_owned();
    for (from, to) in replaced {
        assert!(rules.contains(from), "no {from:?} in the rules");
        rules = rules.replace(from, to);
    }
    let lines = rules.lines().map(|line| {
        if let Some((indent, _)) = line.split_once("for: ").filter(|(before, _)| before.trim().is_empty()) {
            return format!("{indent}for: {FOR}");
        }
        let mut parts = line.split('[');
        let mut hurried = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            match part.split_once(']') {
                Some((range, rest)) if range.starts_with(|c: char| c.is_ascii_digit()) => {
                    hurried += &format!("[{RANGE}]{rest}");
                }
                _ => hurried += &format!("[{part}"),
            }
        }
        hurried
    });
    lines.collect::<Vec<_>>().join("\n")
}

impl PrometheusServer {
    /// Starts one that reads these rules and finds its targets in files; there are none yet.
    ///
    /// # Panics
    /// When Prometheus is not installed, or does not start.
    #[must_use]
    pub fn start(rules: &str) -> Self {
        let address = free_address();
        let directory = TempDir::new().expect("a temporary directory");
        let job = |name: &str| {
            format!(
                "  - job_name: {name}\n    file_sd_configs:\n      - files: [{name}.json]\n        refresh_interval: 1s\n"
            )
        };
        let configuration = format!(
            "global: {{scrape_interval: {INTERVAL}, scrape_timeout: {INTERVAL}, evaluation_interval: {INTERVAL}}}\n\
             rule_files: [rules.yml]\nscrape_configs:\n{}{}",
            job("node"),
            job("gateway"),
        );
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("rules.yml"), rules).expect("the rules");
        std::fs::write(path("prometheus.yml"), configuration).expect("the configuration");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", path("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", path("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("prometheus cannot be started, install it: {error}"));
        Self { address, directory, child }
    }

    /// What it scrapes from now on for the job `node` or `gateway`.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn targets(&self, job: &str, addresses: &[SocketAddr]) {
        let targets: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let path = |name: String| self.directory.path().join(name);
        // It reads the file as soon as it changes, and it may not find half of it.
        let (new, file) = (path(format!("{job}.new")), path(format!("{job}.json")));
        std::fs::write(&new, json!([{ "targets": targets }]).to_string()).expect("targets");
        std::fs::rename(new, file).expect("targets");
    }

    /// The rules as it sees them: name, and what went wrong when they were evaluated last.
    pub async fn rules(&self) -> Vec<(String, String)> {
        let data = self.get("/api/v1/rules").await;
        let groups = data["groups"].as_array().cloned().unwrap_or_default();
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        rules.map(|rule| (text(&rule["name"]), text(&rule["lastError"]))).collect()
    }

    /// The alarms that fire now, as `/api/v1/alerts` has them.
    pub async fn firing(&self) -> Vec<Value> {
        let data = self.get("/api/v1/alerts").await;
        let alerts = data["alerts"].as_array().cloned().unwrap_or_default();
        alerts.into_iter().filter(|alert| alert["state"] == "firing").collect()
    }

    /// The names of the alarms that fire now.
    pub async fn names(&self) -> BTreeSet<String> {
        let firing = self.firing().await;
        let names = firing.iter().map(|alert| alert["labels"]["alertname"].as_str().unwrap_or_default());
        names.map(str::to_owned).collect()
    }

    /// The value of an expression that has one, now.
    pub async fn value(&self, expression: &str) -> Option<f64> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let data = self.get(&format!("/api/v1/query?query={encoded}")).await;
        data["result"][0]["value"][1].as_str()?.parse().ok()
    }

    /// `data` of an answer. Waits until it listens.
    async fn get(&self, path: &str) -> Value {
        let end = Instant::now() + DEADLINE;
        loop {
            match timeout(DEADLINE, self.try_get(path)).await {
                Ok(Some(data)) => return data,
                _ => assert!(Instant::now() < end, "prometheus does not answer {path}"),
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn try_get(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(self.address).await.ok()?;
        // HTTP/1.0, so that the answer comes in one piece.
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let answer: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        (answer["status"] == "success").then(|| answer["data"].clone())
    }
}

impl Drop for PrometheusServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::hurried;

    #[test]
    fn rules_are_shortened_and_thresholds_replaced() {
        let rules = "- expr: rate(a[5m]) + b{c=~\"[x]\"}\n    > 10  # threshold\n  for: 5m\n  for_all: 5m";
        let expected = "- expr: rate(a[10s]) + b{c=~\"[x]\"}\n    > 0  # threshold\n  for: 2s\n  for_all: 5m";
        assert_eq!(hurried(rules, &[("> 10  #", "> 0  #")]), expected);
    }
}
