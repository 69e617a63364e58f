//! A cluster that runs already: it is seen through its API, and disturbed by commands of whoever started it.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use crate::TargetArgs;
use crate::client::Target;

/// Longest time that a command may take.
const COMMAND: Duration = Duration::from_secs(600);
/// Longest wait, after one, until the cluster is whole again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(5);

/// The cluster.
pub(super) struct Standing {
    target: Target,
    nodes: usize,
}

/// Names one run of a node.
type Life = (String, u64);

impl Standing {
    /// # Errors
    /// When it does not answer, or has another number of nodes.
    pub(super) async fn find(target: &TargetArgs, nodes: usize) -> anyhow::Result<Self> {
        let url = target.via.first().context("no address")?;
        let target = Target::resolve(url, target.token.as_deref(), false, target.proto).await?;
        let standing = Self { target, nodes };
        let up = standing.up().await.with_context(|| format!("{url} does not tell who is in the cluster"))?;
        if up.len() != nodes {
            bail!("the cluster at {url} has {} nodes, not {nodes}: name them with --nodes", up.len());
        }
        Ok(standing)
    }

    /// Runs a command that ends a node and starts another in its place, and waits until the cluster knows both.
    pub(super) async fn replace(&mut self, command: &str, node: usize) -> anyhow::Result<()> {
        let before = self.up().await.context("who is in the cluster")?;
        self.run(command, Some(node)).await?;
        let end = Instant::now() + PATIENCE;
        loop {
            // Gateways may just have lost the node that they asked.
            match self.up().await {
                Ok(now) if now.len() == self.nodes && !now.is_subset(&before) => return Ok(()),
                now if Instant::now() > end => {
                    bail!(
                        "{PATIENCE:?} after {command:?} the cluster is not whole: {now:?}, before it {before:?}"
                    )
                }
                _ => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Runs a command in a shell, with what it prints on standard error.
    pub(super) async fn run(&mut self, command: &str, node: Option<usize>) -> anyhow::Result<()> {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).stdin(Stdio::null()).stdout(std::io::stderr());
        if let Some(node) = node {
            shell.env("NODE", node.to_string());
        }
        let mut child = shell.spawn().with_context(|| format!("cannot run {command:?}"))?;
        let end = Instant::now() + COMMAND;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > end {
                let _ = child.kill();
                let _ = child.wait();
                bail!("{command:?} did not end within {COMMAND:?}");
            }
            sleep(Duration::from_millis(20)).await;
        };
        if !status.success() {
            bail!("{command:?}: {status}");
        }
        Ok(())
    }

    /// The nodes that take clients.
    async fn up(&self) -> anyhow::Result<BTreeSet<Life>> {
        let answer = timeout(ANSWER, self.get("/api/v1/cluster")).await.context("no answer in time")??;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP")?;
        let members: Value = serde_json::from_str(body)
            .with_context(|| format!("not JSON: {}", head.lines().next().unwrap_or_default()))?;
        let nodes = members["nodes"].as_array().with_context(|| format!("no nodes in {body}"))?;
        let life = |node: &Value| Some((node["id"].as_str()?.to_owned(), node["started_at"].as_u64()?));
        Ok(nodes.iter().filter(|node| node["draining"] != true).filter_map(life).collect())
    }

    async fn get(&self, path: &str) -> anyhow::Result<String> {
        let mut stream = self.target.dial(None).await?;
        stream.write_all(self.target.get_head(path).as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Answers every request with the next of these clusters, and the last one for ever.
    async fn serve(listener: TcpListener, answers: Vec<&'static str>) {
        let mut answers = answers.into_iter();
        let mut now = "";
        loop {
            now = answers.next().unwrap_or(now);
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            }
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{now}", now.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    const A: &str = r#"{"nodes":[{"id":"a","started_at":1,"draining":false}]}"#;

    async fn standing(answers: Vec<&'static str>, nodes: usize) -> anyhow::Result<Standing> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(serve(listener, answers));
        Standing::find(&TargetArgs::at(url, false), nodes).await
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_node_is_replaced_once_the_new_one_is_up_and_the_old_one_gone() {
        let answers = vec![
            A,
            A,
            r#"{"nodes":[{"id":"a","started_at":1,"draining":true}]}"#,
            r#"{"nodes":[{"id":"a","started_at":1,"draining":false},{"id":"b","started_at":2,"draining":false}]}"#,
            r#"{"nodes":[{"id":"b","started_at":2,"draining":false}]}"#,
        ];
        let mut standing = standing(answers, 1).await.unwrap();
        standing.replace("test $NODE = 7", 7).await.unwrap();
        assert_eq!(standing.up().await.unwrap(), BTreeSet::from([("b".to_owned(), 2)]));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_fails_is_told() {
        assert!(standing(vec![A], 2).await.is_err(), "another number of nodes");
        let mut standing = standing(vec![A], 1).await.unwrap();
        let error = standing.replace("exit 3", 1).await.unwrap_err().to_string();
        assert!(error.contains("exit 3") && error.contains('3'), "{error}");
    }
}
