//! From ended spans to a collector.
//!
//! Invariants: no more than `otlp.queue` spans wait or are under way; who ends a span never waits; every span that does not
//! reach the collector is counted.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, Span, SpanData, SpanExporter,
    SpanProcessor,
};
use tickmesh_cluster::config::OtlpConfig;
use tokio::sync::{mpsc, oneshot};

use crate::InitError;
use crate::http::Outgoing;
use crate::trace::Ids;

/// Spans in one request to the collector, at most.
const BATCH: usize = 512;
/// How long spans wait for others to go with them.
const DELAY: Duration = Duration::from_secs(1);
/// Largest answer of a collector that is read.
const MAX_ANSWER: usize = 64 * 1024;
/// Where traces are taken, by the specification of OTLP.
const PATH: &str = "/v1/traces";

static EXPORTED: AtomicU64 = AtomicU64::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Spans that the collector took, and that were dropped, of this process.
pub(crate) fn counts() -> (u64, u64) {
    (EXPORTED.load(Ordering::Relaxed), DROPPED.load(Ordering::Relaxed))
}

/// What makes spans and exports them; `None` without an endpoint.
pub(crate) fn provider(
    config: &OtlpConfig,
    service: &'static str,
    id: &str,
) -> Result<Option<SdkTracerProvider>, InitError> {
    if config.endpoint.is_empty() {
        return Ok(None);
    }
    let bad = |error: opentelemetry_otlp::ExporterBuildError| InitError::Otlp {
        key: "otlp.endpoint",
        problem: error.to_string(),
    };
    let timeout = Duration::from_millis(config.timeout_ms);
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(Client::new(timeout, config.tls_ca.as_deref())?)
        .with_endpoint(url(&config.endpoint))
        .with_timeout(timeout)
        .build()
        .map_err(bad)?;
    let waiting = Arc::<AtomicUsize>::default();
    let exporter = Counted { exporter, waiting: waiting.clone(), failing: AtomicBool::new(false) };
    // One more than can ever be there: what is too much is dropped before, where it is counted.
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(config.queue + 1)
        .with_max_export_batch_size(BATCH.min(config.queue))
        .with_scheduled_delay(DELAY)
        .build();
    let inner = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
    let resource = Resource::builder()
        .with_service_name(service)
        .with_attribute(KeyValue::new("service.instance.id", id.to_owned()))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(Bounded { inner, waiting, most: config.queue })
        // What is not sampled makes no span in the first place.
        .with_sampler(Sampler::AlwaysOn)
        .with_id_generator(Ids::default())
        .with_resource(resource)
        .build();
    Ok(Some(provider))
}

fn url(endpoint: &str) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    if endpoint.ends_with(PATH) { endpoint.to_owned() } else { format!("{endpoint}{PATH}") }
}

/// Lets no more spans in than may wait.
#[derive(Debug)]
struct Bounded {
    inner: BatchSpanProcessor,
    waiting: Arc<AtomicUsize>,
    most: usize,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.waiting.fetch_add(1, Ordering::AcqRel) < self.most {
            self.inner.on_end(span);
        } else {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Counts what becomes of the spans.
#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    waiting: Arc<AtomicUsize>,
    /// The last attempt failed: it is told once, not each time.
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let result = self.exporter.export(batch).await;
        self.waiting.fetch_sub(count, Ordering::AcqRel);
        match &result {
            Ok(()) => {
                EXPORTED.fetch_add(count as u64, Ordering::Relaxed);
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("the collector takes traces again");
                }
            }
            Err(error) => {
                DROPPED.fetch_add(count as u64, Ordering::Relaxed);
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "the collector takes no traces: they are dropped and counted");
                }
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Requests that wait for the thread which sends them: the exporter sends one at a time.
const WAITING: usize = 4;

/// A request, and where its answer goes.
type Sending = (Request<Bytes>, oneshot::Sender<Result<Response<Bytes>, HttpError>>);

/// Hands requests to a thread of their own, which has the runtime that the HTTP client needs. The thread ends with this.
#[derive(Debug)]
struct Client(mpsc::Sender<Sending>);

impl Client {
    fn new(timeout: Duration, ca: Option<&Path>) -> Result<Self, InitError> {
        let outgoing = Outgoing::new(timeout, ca);
        let outgoing = outgoing.map_err(|problem| InitError::Otlp { key: "otlp.tls_ca", problem })?;
        let (sender, mut requests) = mpsc::channel::<Sending>(WAITING);
        let bad =
            |error: std::io::Error| InitError::Otlp { key: "otlp.endpoint", problem: error.to_string() };
        let runtime = actix_rt::Runtime::new;
        std::thread::Builder::new()
            .name("otlp-http".into())
            .spawn(move || {
                // Where there is no runtime, the channel closes, and each batch counts as dropped.
                let Ok(runtime) = runtime() else { return };
                runtime.block_on(async {
                    let client = outgoing.client();
                    while let Some((request, answer)) = requests.recv().await {
                        // The exporter may have given up meanwhile.
                        let _ = answer.send(send(&client, request).await);
                    }
                });
            })
            .map_err(bad)?;
        Ok(Self(sender))
    }
}

/// Sends one request. The headers of the answer count for nothing.
async fn send(client: &awc::Client, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let (parts, body) = request.into_parts();
    let mut sent = client.post(parts.uri.to_string());
    for (name, value) in &parts.headers {
        sent = sent.insert_header((name.as_str(), value.as_bytes()));
    }
    let mut answer = sent.send_body(body).await.map_err(|error| error.to_string())?;
    let body = answer.body().limit(MAX_ANSWER).await.map_err(|error| error.to_string())?;
    Ok(Response::builder().status(answer.status().as_u16()).body(body)?)
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (answer, answered) = oneshot::channel();
        self.0.try_send((request, answer)).map_err(|_| "the thread that sends traces has ended")?;
        answered.await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_added_where_it_is_missing() {
        for (endpoint, expected) in [
            ("http://c:4318", "http://c:4318/v1/traces"),
            ("http://c:4318/", "http://c:4318/v1/traces"),
            ("https://c/otlp", "https://c/otlp/v1/traces"),
            ("https://c/otlp/v1/traces", "https://c/otlp/v1/traces"),
        ] {
            assert_eq!(url(endpoint), expected);
        }
    }
}
