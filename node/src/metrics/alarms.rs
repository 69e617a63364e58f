//! What is read of alarms: those that fire, and what became of what webhooks were told.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tickmesh_edge::metrics::Figures;

use crate::alarms::Gauges;

/// Reads them when it is asked.
#[derive(Debug)]
pub(super) struct AlarmsCollector(pub(super) Arc<Gauges>);

impl Collector for AlarmsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let figures = &mut Figures(&mut encoder);
        let firing = self.0.firing().map(|(severity, count)| ([("severity", severity)], count));
        figures.gauges("alarms", "Alarms that fire, at the node that looks after them", firing)?;
        figures.gauge("alarm_evaluator", "1 at the node that looks after alarms", self.0.evaluates())?;
        let outcomes = self.0.outcomes().map(|(outcome, count)| ([("outcome", outcome)], count));
        figures.counters("webhook_deliveries", "Alarms for webhooks, by what became of them", outcomes)?;
        figures.gauge("webhook_waiting", "Alarms that wait for a webhook to take them", self.0.waiting())
    }
}
