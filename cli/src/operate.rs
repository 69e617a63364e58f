//! `tickmesh node drain`, `tickmesh node resume` and `tickmesh cluster status`: the API of a running cluster.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use crate::args::{ClusterCommand, NodeCommand, Via};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Has a node drained, or take clients again.
pub(crate) fn node(command: &NodeCommand) -> anyhow::Result<()> {
    let (id, what, via) = match command {
        NodeCommand::Drain { id, via } => (id, "drain", via),
        NodeCommand::Resume { id, via } => (id, "resume", via),
    };
    let answer = ask(via, awc::http::Method::POST, &format!("/api/v1/nodes/{id}/{what}"))?;
    println!("{}: {}", answer["node_id"].as_str().unwrap_or(id), answer["status"].as_str().unwrap_or("told"));
    Ok(())
}

/// Tells who is in the cluster, and how they do.
pub(crate) fn cluster(command: &ClusterCommand) -> anyhow::Result<()> {
    let ClusterCommand::Status { via } = command;
    let answer = ask(via, awc::http::Method::GET, "/api/v1/cluster")?;
    println!(
        "{:<24} {:<8} {:<22} {:>11} {:>6} {:>9} {:<8} state",
        "id", "kind", "address", "connections", "cpu", "memory", "version"
    );
    for kind in ["nodes", "gateways"] {
        for member in answer[kind].as_array().into_iter().flatten() {
            let text = |name: &str| member[name].as_str().unwrap_or_default().to_owned();
            println!(
                "{:<24} {:<8} {:<22} {:>11} {:>5}% {:>6} MiB {:<8} {}",
                text("id"),
                text("kind"),
                text("address"),
                member["connections"],
                member["cpu_percent"].as_f64().unwrap_or_default().round(),
                member["memory_bytes"].as_u64().unwrap_or_default() >> 20,
                text("version"),
                if member["draining"] == true { "draining" } else { "up" },
            );
        }
    }
    Ok(())
}

fn ask(via: &Via, method: awc::http::Method, path: &str) -> anyhow::Result<Value> {
    actix_rt::System::new().block_on(async {
        let url = format!("{}{path}", via.via.trim_end_matches('/'));
        let client = awc::Client::builder().timeout(PATIENCE).finish();
        let mut request = client.request(method, &url);
        if let Some(token) = &via.token {
            request = request.bearer_auth(token);
        }
        let sent = request.send().await;
        let mut answer = sent.map_err(|error| anyhow::anyhow!("{url}: {error}"))?;
        let body = answer.body().await.map_err(|error| anyhow::anyhow!("{url}: {error}"))?;
        let json: Value = serde_json::from_slice(&body).with_context(|| format!("{url}: not JSON"))?;
        if !answer.status().is_success() {
            let text = json["error_message"].as_str().unwrap_or("refused");
            anyhow::bail!("{url}: {}: {text}", answer.status());
        }
        Ok(json)
    })
}
