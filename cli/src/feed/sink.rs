//! Where ticks are published: over HTTP, or into a broker of this process.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tickmesh_cluster::broker::Broker;
use tickmesh_protocol::message::Publish;
use tokio::time::Instant;

use super::ticks::Message;

/// How long a node may be away before the feed gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Waits between attempts, doubled each time up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Takes messages in order.
#[async_trait(?Send)]
pub(super) trait Sink {
    /// Returns when all of them are kept.
    async fn publish(&mut self, messages: &[Message<'_>]) -> anyhow::Result<()>;
}

/// A broker of this process.
pub(super) struct BrokerSink(pub(super) Arc<dyn Broker>);

#[async_trait(?Send)]
impl Sink for BrokerSink {
    async fn publish(&mut self, messages: &[Message<'_>]) -> anyhow::Result<()> {
        let messages = messages
            .iter()
            .map(|message| Publish {
                room: message.room.clone(),
                event: message.event.name().into(),
                data: message.data.to_owned(),
                message_id: None,
                key: None,
                timestamp: None,
            })
            .collect();
        for result in self.0.publish(messages).await {
            result?;
        }
        Ok(())
    }
}

/// `POST /api/v1/publish` of a node.
pub(super) struct HttpSink {
    client: awc::Client,
    url: String,
}

#[derive(Serialize)]
struct Body<'a> {
    messages: &'a [Message<'a>],
}

#[derive(Deserialize)]
struct Answers {
    results: Vec<Answer>,
}

#[derive(Deserialize)]
struct Answer {
    error_code: Option<String>,
    error_message: Option<String>,
}

/// Why a batch was not kept.
enum Trouble {
    /// Trying again may help.
    Passing(String),
    /// It will not.
    Lasting(String),
}

impl HttpSink {
    pub(super) fn new(to: &str, token: Option<&str>) -> Self {
        let mut client = awc::Client::builder().timeout(TIMEOUT);
        if let Some(token) = token {
            client = client.bearer_auth(token);
        }
        Self { client: client.finish(), url: format!("{}/api/v1/publish", to.trim_end_matches('/')) }
    }

    async fn attempt(&self, messages: &[Message<'_>]) -> Result<(), Trouble> {
        let sent = self.client.post(&self.url).send_json(&Body { messages });
        let mut response = sent.await.map_err(|error| Trouble::Passing(error.to_string()))?;
        let body = response.body().await.map_err(|error| Trouble::Passing(error.to_string()))?;
        let status = response.status();
        let trouble = |text: String| match status.as_u16() {
            200 | 503 | 504 => Trouble::Passing(text),
            _ => Trouble::Lasting(text),
        };
        let Ok(answers) = serde_json::from_slice::<Answers>(&body) else {
            return Err(trouble(format!("{status}: {}", String::from_utf8_lossy(&body))));
        };
        match answers.results.into_iter().find_map(|answer| Some((answer.error_code?, answer.error_message)))
        {
            None if status.is_success() => Ok(()),
            None => Err(trouble(status.to_string())),
            Some((code, message)) => {
                let text = format!("{code}: {}", message.unwrap_or_default());
                let passing = matches!(&*code, "SERVICE_UNAVAILABLE" | "TIMEOUT" | "RATE_LIMIT_EXCEEDED");
                Err(if passing { Trouble::Passing(text) } else { Trouble::Lasting(text) })
            }
        }
    }
}

#[async_trait(?Send)]
impl Sink for HttpSink {
    async fn publish(&mut self, messages: &[Message<'_>]) -> anyhow::Result<()> {
        let (deadline, mut wait) = (Instant::now() + PATIENCE, BACKOFF.0);
        loop {
            match self.attempt(messages).await {
                Ok(()) => return Ok(()),
                Err(Trouble::Lasting(text)) => anyhow::bail!("{} refuses: {text}", self.url),
                Err(Trouble::Passing(text)) if Instant::now() + wait > deadline => {
                    anyhow::bail!("{} is away: {text}", self.url);
                }
                Err(Trouble::Passing(_)) => tokio::time::sleep(wait).await,
            }
            wait = (wait * 2).min(BACKOFF.1);
        }
    }
}
