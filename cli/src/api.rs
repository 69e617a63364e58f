//! The HTTP API of a running cluster, as its operators ask it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use awc::http::header::HeaderValue;
use awc::http::{Method, StatusCode};
use serde_json::Value;
use tickmesh_edge::tls::Connector;

use crate::args::Trusted;
use crate::config::Unusable;

/// Longest answer that is read, in bytes.
const LONGEST: usize = 32 << 20;

/// Whom to ask, as whom.
pub(crate) struct Api {
    url: String,
    token: Option<String>,
    client: awc::Client,
}

/// An answer that says no.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {status}: {text}")]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    url: String,
    text: String,
}

impl Refused {
    /// Whether a request failed by an answer.
    pub(crate) fn is(error: &anyhow::Error) -> bool {
        error.is::<Self>()
    }
}

impl Api {
    /// As the flags say, with so long to wait for an answer at most. Needs a runtime.
    ///
    /// # Errors
    /// When the flags cannot be used.
    pub(crate) fn via(args: &Trusted, patience: Duration) -> anyhow::Result<Self> {
        let url = args.server.via.trim_end_matches('/');
        let mut connector = awc::Connector::new();
        if url.starts_with("https://") {
            let tls = match &args.ca {
                Some(ca) => Connector::new(ca).map_err(|error| Unusable(format!("--ca: {error}")))?,
                None => Connector::web()?,
            };
            connector = connector.rustls_0_23(tls.config());
        } else if !url.starts_with("http://") {
            bail!(Unusable(format!("--via {url}: expected a URL such as http://127.0.0.1:8080")));
        }
        let client = awc::Client::builder().connector(connector.timeout(patience)).timeout(patience).finish();
        Self::new(url.to_owned(), args.server.token.clone(), client)
    }

    /// By a client of one's own.
    ///
    /// # Errors
    /// When the token cannot be sent.
    pub(crate) fn new(url: String, token: Option<String>, client: awc::Client) -> anyhow::Result<Self> {
        if token.as_ref().is_some_and(|token| HeaderValue::from_str(token).is_err()) {
            bail!(Unusable("--token (or TICKMESH_TOKEN): it has a character that no token has".into()));
        }
        Ok(Self { url, token, client })
    }

    /// Where it asks.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// One request.
    ///
    /// # Errors
    /// [`Refused`] when the answer says no; another one when there is none in time, or none in JSON.
    pub(crate) async fn ask(&self, method: Method, path: &str) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.url);
        let mut request = self.client.request(method, &url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let sent = request.send().await;
        let mut answer = sent.map_err(|error| anyhow::anyhow!("{url}: {error}"))?;
        let body = answer.body().limit(LONGEST).await.map_err(|error| anyhow::anyhow!("{url}: {error}"))?;
        let status = answer.status();
        let json = serde_json::from_slice::<Value>(&body);
        if !status.is_success() {
            let text =
                json.as_ref().ok().and_then(|json| json["error_message"].as_str()).unwrap_or("refused");
            bail!(Refused { status, url, text: text.to_owned() });
        }
        json.with_context(|| format!("{url}: not JSON"))
    }
}
