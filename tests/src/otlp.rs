//! A collector of traces: takes OTLP over HTTP, as its specification has it, and keeps what it was sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// How a collector treats those who send to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It takes what comes.
    Take,
    /// It answers 503.
    Refuse,
    /// It takes connections and says nothing.
    Hang,
}

/// A span, and who sent it.
#[derive(Debug, Clone)]
pub struct Received {
    /// `service.name`.
    pub service: String,
    /// `service.instance.id`.
    pub instance: String,
    /// The span.
    pub span: Span,
}

impl Received {
    /// Its trace, in hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        hex(&self.span.trace_id)
    }

    /// Its own id, in hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    /// The span that it is a part of, in hexadecimal digits; empty for none.
    #[must_use]
    pub fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }

    /// One of its attributes as text.
    #[must_use]
    pub fn get(&self, key: &str) -> String {
        attribute(&self.span.attributes, key)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An attribute as text; empty if it is not there.
#[must_use]
pub fn attribute(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|found| found.value.as_ref()?.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

/// A collector on a free port of its own.
pub struct Collector {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    requests: Arc<AtomicUsize>,
    listening: JoinHandle<()>,
}

impl Collector {
    /// Starts one.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap_or_else(|error| panic!("{error}"));
        let address = listener.local_addr().unwrap_or_else(|error| panic!("{error}"));
        let received = Arc::<Mutex<Vec<Received>>>::default();
        let requests = Arc::<AtomicUsize>::default();
        let (keep, count) = (received.clone(), requests.clone());
        let listening = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, manner, keep.clone(), count.clone()));
            }
        });
        Self { address, received, requests, listening }
    }

    /// Its address for `otlp.endpoint`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How often it was asked to take something, whatever became of it.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// What came so far.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().clone()
    }

    /// What came so far of one trace.
    #[must_use]
    pub fn of(&self, trace_id: &str) -> Vec<Received> {
        self.received.lock().iter().filter(|span| span.trace_id() == trace_id).cloned().collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn serve(
    stream: TcpStream,
    manner: Manner,
    received: Arc<Mutex<Vec<Received>>>,
    requests: Arc<AtomicUsize>,
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut length, mut line) = (0, String::new());
        stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        assert_eq!(line.trim_end(), "POST /v1/traces HTTP/1.1");
        loop {
            line.clear();
            stream.read_line(&mut line).await.ok()?;
            let header = line.trim_end().to_ascii_lowercase();
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            } else if let Some(kind) = header.strip_prefix("content-type:") {
                assert_eq!(kind.trim(), "application/x-protobuf");
            } else if header.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        requests.fetch_add(1, Ordering::Relaxed);
        let (status, answer) = match manner {
            Manner::Hang => std::future::pending().await,
            Manner::Refuse => ("503 Service Unavailable", Vec::new()),
            Manner::Take => {
                let request =
                    ExportTraceServiceRequest::decode(&body[..]).unwrap_or_else(|error| panic!("{error}"));
                received.lock().extend(spans(request));
                ("200 OK", ExportTraceServiceResponse::default().encode_to_vec())
            }
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/x-protobuf\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        stream.write_all(head.as_bytes()).await.ok()?;
        stream.write_all(&answer).await.ok()?;
    }
}

fn spans(request: ExportTraceServiceRequest) -> Vec<Received> {
    let mut all = Vec::new();
    for resource in request.resource_spans {
        let of = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
        let (service, instance) = (attribute(&of, "service.name"), attribute(&of, "service.instance.id"));
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            all.push(Received { service: service.clone(), instance: instance.clone(), span });
        }
    }
    all
}
