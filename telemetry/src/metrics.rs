//! What became of a process's spans, for its registry of metrics.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;

use crate::trace;

/// `traces_exported_total` and `traces_dropped_total`, under the registry's prefix; both stay 0 without a collector.
#[derive(Debug)]
pub struct Traces;

impl Collector for Traces {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let dropped = "Spans that the collector did not take, or that were too many to wait for it";
        for (name, help, value) in [
            ("traces_exported", "Spans that the collector took", trace::exported()),
            ("traces_dropped", dropped, trace::dropped()),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}
