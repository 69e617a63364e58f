//! Where ticks are published: over HTTP, or through a node of this process.

use std::time::Duration;

use async_trait::async_trait;
use awc::http::Uri;
use awc::http::header::HeaderValue;
use serde::{Deserialize, Serialize};
use tickmesh_node::Publisher;
use tickmesh_protocol::message::Publish;
use tokio::time::Instant;

use super::ticks::Message;
use crate::config::Unusable;
use crate::reach;

/// How long a node may be away before the feed gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Waits between attempts, doubled each time up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Bytes of an answer that is not understood which are shown.
const SHOWN: usize = 200;
/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Takes messages in order.
#[async_trait(?Send)]
pub(super) trait Sink {
    /// Returns when all of them are kept.
    async fn publish(&mut self, messages: &[Message<'_>]) -> anyhow::Result<()>;
}

/// A node of this process. Messages that its broker does not take are let go: by the time it does, they are old quotes.
pub(super) struct NodeSink(pub(super) Publisher);

#[async_trait(?Send)]
impl Sink for NodeSink {
    async fn publish(&mut self, messages: &[Message<'_>]) -> anyhow::Result<()> {
        let messages = messages
            .iter()
            .map(|message| Publish {
                room: message.room.clone(),
                event: message.event.name().into(),
                data: message.data.clone(),
                message_id: None,
                key: None,
                timestamp: None,
                trace: None,
            })
            .collect();
        if let Some(error) = self.0.publish(messages).await.into_iter().find_map(Result::err) {
            tracing::debug!(%error, "demo quotes were not published");
            tokio::time::sleep(BACKOFF.0).await;
        }
        Ok(())
    }
}

/// `POST /api/v1/publish` of a node.
pub(super) struct HttpSink {
    client: awc::Client,
    server: String,
    url: String,
    /// There was a server: if it is away later, it comes back.
    met: bool,
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
    /// There was no answer. Trying again may help.
    Away(String),
    /// Trying again may help.
    Passing(String),
    /// It will not.
    Lasting(String),
}

impl HttpSink {
    /// # Errors
    /// When `via` is no URL of a node, or the token cannot be sent in a header.
    pub(super) fn new(via: &str, token: Option<&str>) -> Result<Self, Unusable> {
        let good = via.parse::<Uri>().is_ok_and(|uri| {
            uri.scheme_str() == Some("http")
                && uri.host().is_some_and(|host| !host.is_empty())
                && uri.query().is_none()
        });
        if !good {
            return Err(Unusable(format!("--via {via}: expected a URL such as http://127.0.0.1:8080")));
        }
        let mut client = awc::Client::builder().timeout(TIMEOUT);
        // A token that comes out of a file often ends with a line break.
        if let Some(token) = token.map(str::trim).filter(|token| !token.is_empty()) {
            if HeaderValue::from_str(token).is_err() {
                return Err(Unusable(
                    "--token (or TICKMESH_TOKEN): it has a character that no token has".into(),
                ));
            }
            client = client.bearer_auth(token);
        }
        let server = via.trim_end_matches('/').to_owned();
        Ok(Self { client: client.finish(), url: format!("{server}/api/v1/publish"), server, met: false })
    }

    async fn attempt(&self, messages: &[Message<'_>]) -> Result<(), Trouble> {
        let sent = self.client.post(&self.url).send_json(&Body { messages });
        let mut response = sent.await.map_err(|error| Trouble::Away(error.to_string()))?;
        let body = response.body().await.map_err(|error| Trouble::Away(error.to_string()))?;
        let status = response.status();
        let trouble = |text: String| match status.as_u16() {
            429 | 502..=504 => Trouble::Passing(text),
            _ => Trouble::Lasting(text),
        };
        let Ok(answers) = serde_json::from_slice::<Answers>(&body) else {
            let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN)]);
            return Err(trouble(format!("{status}: {shown}")));
        };
        let answered = answers.results.len();
        match answers.results.into_iter().find_map(|answer| Some((answer.error_code?, answer.error_message)))
        {
            // Only what was answered is kept.
            None if status.is_success() && answered != messages.len() => {
                Err(Trouble::Lasting(format!("{answered} answers to {} messages", messages.len())))
            }
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
            let attempt = self.attempt(messages);
            let attempted = if self.met {
                attempt.await
            } else {
                reach::first(&self.server, attempt, |trouble| !matches!(trouble, Trouble::Away(_))).await?
            };
            self.met = true;
            match attempted {
                Ok(()) => return Ok(()),
                Err(Trouble::Lasting(text)) => anyhow::bail!("{} refuses: {text}", self.url),
                Err(Trouble::Away(text) | Trouble::Passing(text)) if Instant::now() + wait > deadline => {
                    anyhow::bail!("{}: given up after {} s: {text}", self.url, PATIENCE.as_secs());
                }
                Err(Trouble::Away(_) | Trouble::Passing(_)) => tokio::time::sleep(wait).await,
            }
            wait = (wait * 2).min(BACKOFF.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_reached_is_refused_before_it_is_tried() {
        for bad in
            ["127.0.0.1:8080", "https://h", "ws://h", "http://", "/", "", "http://h/?x=1", "http://a b"]
        {
            let error = HttpSink::new(bad, None).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.starts_with(&format!("--via {bad}: expected a URL")), "{bad}: {error}");
        }
        for good in ["http://127.0.0.1:8080", "http://h/", "http://[::1]:1/below"] {
            assert!(HttpSink::new(good, Some("token")).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_token_that_is_none_is_refused_and_not_shown() {
        assert!(HttpSink::new("http://h", Some("from.a.file\n")).is_ok());
        let error = HttpSink::new("http://h", Some("hunter\n2")).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("--token") && !error.contains("hunter")));
    }
}
