//! Spans of what is sampled.
//!
//! Whether a request is traced is decided once, at the first process that sees it: by its `traceparent`, or by its trace id
//! and `otlp.sample`. What follows from it carries its place in the trace: a `traceparent` from gateway to node, the same
//! with a message through the broker. So all that is done for what is not sampled is to find that out.
//!
//! Invariants: spans have no payloads, tokens or queries of URLs; they are held, never entered, so that none becomes the
//! parent of something by accident.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Context, Key, Value};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use tickmesh_cluster::config::OtlpConfig;
use tickmesh_protocol::trace::TraceContext;
use tracing::Metadata;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{FilterFn, LevelFilter, filter_fn};

use crate::export;

/// The target of spans that are exported; nothing else is.
pub(crate) const TARGET: &str = "tickmesh::trace";

static ENABLED: AtomicBool = AtomicBool::new(false);
static FOLLOW: AtomicBool = AtomicBool::new(true);
/// Trace ids whose lower half, shifted by one, is below are sampled.
static THRESHOLD: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The trace of the root span that is being made, which a request has named or a decision was made by.
    static TRACE: Cell<u128> = const { Cell::new(0) };
}

pub(crate) fn filter() -> FilterFn<fn(&Metadata<'_>) -> bool> {
    let ours: fn(&Metadata<'_>) -> bool = |meta| meta.target() == TARGET;
    // Without a hint, every disabled line of the libraries would be asked for.
    filter_fn(ours).with_max_level_hint(LevelFilter::INFO)
}

pub(crate) fn begin(config: &OtlpConfig) {
    FOLLOW.store(config.follow_parent, Ordering::Relaxed);
    THRESHOLD.store(threshold(config.sample), Ordering::Relaxed);
    ENABLED.store(true, Ordering::Release);
}

pub(crate) fn end() {
    ENABLED.store(false, Ordering::Release);
}

/// Whether this process traces anything.
#[must_use]
pub fn enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}

/// Spans of this process that the collector took.
#[must_use]
pub fn exported() -> u64 {
    export::counts().0
}

/// Spans of this process that were dropped: too many waited, or the collector did not take them.
#[must_use]
pub fn dropped() -> u64 {
    export::counts().1
}

/// As the ratio sampler of OpenTelemetry, so that other programs with the same ratio agree.
fn threshold(ratio: f64) -> u64 {
    (ratio.clamp(0.0, 1.0) * (1u64 << 63) as f64) as u64
}

fn chosen(trace_id: u128, threshold: u64) -> bool {
    (trace_id as u64 >> 1) < threshold
}

fn sampled(asked: Option<TraceContext>, follow: bool, threshold: u64) -> Option<TraceContext> {
    match asked {
        Some(TraceContext { sampled: Some(sampled), .. }) if follow => asked.filter(|_| sampled),
        Some(context) => asked.filter(|_| chosen(context.trace_id, threshold)),
        None => {
            let trace_id = new_trace_id();
            chosen(trace_id, threshold).then_some(TraceContext { trace_id, parent_id: 0, sampled: None })
        }
    }
}

fn new_trace_id() -> u128 {
    rand::random::<u128>().max(1)
}

/// A place in a trace that is not recorded, for the next process to see that it is decided.
#[must_use]
pub fn unsampled() -> TraceContext {
    let parent_id = rand::random::<u64>().max(1);
    TraceContext { trace_id: new_trace_id(), parent_id, sampled: Some(false) }
}

/// Gives root spans the trace id that was decided for them.
#[derive(Debug, Default)]
pub(crate) struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        match TRACE.take() {
            0 => self.0.new_trace_id(),
            decided => TraceId::from(decided),
        }
    }

    fn new_span_id(&self) -> SpanId {
        self.0.new_span_id()
    }
}

/// What a span is, see [`SpanKind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Answers a request.
    Server,
    /// Sends messages.
    Producer,
    /// Takes messages.
    Consumer,
}

/// A span that has begun. It ends when it is dropped.
#[must_use = "it ends when it is dropped"]
pub struct Active {
    span: tracing::Span,
    context: TraceContext,
}

impl fmt::Debug for Active {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Active({})", self.context)
    }
}

/// A request's method as spans name it: whatever is not of HTTP itself is `_OTHER`, as the conventions of OpenTelemetry have it.
#[must_use]
pub fn method(method: &str) -> &'static str {
    ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]
        .into_iter()
        .find(|known| *known == method)
        .unwrap_or("_OTHER")
}

/// Begins the span of a request, if it is sampled. `asked` is what it says of itself.
#[inline]
pub fn request(asked: Option<TraceContext>, name: impl FnOnce() -> String) -> Option<Active> {
    if !enabled() {
        return None;
    }
    let decided = sampled(asked, FOLLOW.load(Ordering::Relaxed), THRESHOLD.load(Ordering::Relaxed))?;
    Active::begin(decided, Kind::Server, name())
}

impl Active {
    /// Begins a span at a place in a trace that is sampled. `None` where this process traces nothing.
    pub fn begin(at: TraceContext, kind: Kind, name: String) -> Option<Self> {
        if !enabled() {
            return None;
        }
        let kind = match kind {
            Kind::Server => SpanKind::Server,
            Kind::Producer => SpanKind::Producer,
            Kind::Consumer => SpanKind::Consumer,
        };
        let kind = format!("{kind:?}");
        let span =
            tracing::info_span!(target: TARGET, parent: None, "span", otel.name = name, otel.kind = kind);
        if at.parent_id == 0 {
            TRACE.set(at.trace_id);
        } else {
            let parent = Context::new().with_remote_span_context(remote(at));
            span.set_parent(parent).ok()?;
        }
        // This is what makes it begin.
        let context = span.context();
        TRACE.set(0);
        let context = context.span().span_context().clone();
        let context = TraceContext {
            trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
            parent_id: u64::from_be_bytes(context.span_id().to_bytes()),
            sampled: Some(context.is_sampled()),
        };
        (context.trace_id != 0).then_some(Self { span, context })
    }

    /// The place of what follows from this.
    #[must_use]
    pub fn context(&self) -> TraceContext {
        self.context
    }

    /// Says more about it. Neither tokens nor payloads.
    pub fn set(&self, key: impl Into<Key>, value: impl Into<Value>) {
        self.span.set_attribute(key, value);
    }

    /// It failed.
    pub fn fail(&self, problem: impl Into<String>) {
        self.span.set_status(Status::error(problem.into()));
    }

    /// It is caused by something of another trace as well.
    pub fn link(&self, other: TraceContext) {
        self.span.add_link(remote(other));
    }

    /// It has come so far: if nothing more is said, this is when it ended.
    pub fn touch(&self) {
        self.span.in_scope(|| ());
    }
}

fn remote(context: TraceContext) -> SpanContext {
    SpanContext::new(
        TraceId::from(context.trace_id),
        SpanId::from(context.parent_id),
        TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(trace_id: u128, sampled: Option<bool>) -> Option<TraceContext> {
        Some(TraceContext { trace_id, parent_id: 7, sampled })
    }

    #[test]
    fn a_parent_decides_where_it_is_followed() {
        let (never, always) = (threshold(0.0), threshold(1.0));
        let told = |asked, follow, threshold| sampled(asked, follow, threshold).is_some();
        assert!(told(context(u128::MAX, Some(true)), true, never));
        assert!(!told(context(1, Some(false)), true, always));
        assert!(!told(context(1, Some(true)), false, never));
        assert!(told(context(u128::MAX, Some(false)), false, always));
        // A trace id alone says nothing about it.
        assert!(!told(context(1, None), true, never));
        assert!(told(context(u128::MAX, None), true, always));
        assert!(!told(None, true, never));
        assert!(told(None, true, always));
    }

    #[test]
    fn the_ratio_is_met_and_all_processes_agree() {
        let part = threshold(0.1);
        let count = (0..100_000).filter(|_| sampled(None, true, part).is_some()).count();
        assert!((9_000..11_000).contains(&count), "{count} of 100000 at 0.1");
        for _ in 0..1_000 {
            let id = new_trace_id();
            let here = sampled(context(id, None), true, part).is_some();
            assert_eq!(here, sampled(context(id, Some(!here)), false, part).is_some());
        }
    }

    #[test]
    fn nothing_is_traced_where_nothing_was_set_up() {
        assert!(request(context(1, Some(true)), || unreachable!("not sampled")).is_none());
        assert!(Active::begin(context(1, Some(true)).unwrap(), Kind::Server, String::new()).is_none());
    }
}
