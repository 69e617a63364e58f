//! Results for people and for programs: the same entries as a table or as one JSON object.

use std::time::Duration;

use comfy_table::{Table, presets};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use crate::opening::Errors;
use crate::procstat::CpuReading;

/// Latencies in microseconds, up to two minutes, to three significant digits.
#[derive(Debug)]
pub(crate) struct Latency(Histogram<u64>);

const MAX_LATENCY_US: u64 = 120_000_000;

impl Latency {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, MAX_LATENCY_US, 3).expect("bounds that a histogram accepts"))
    }

    /// Counts one latency, given in nanoseconds.
    pub(crate) fn record_ns(&mut self, ns: u64) {
        self.0.saturating_record(ns / 1000);
    }

    fn quantile_ms(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }

    fn to_json(&self) -> Value {
        if self.0.is_empty() {
            return Value::Null;
        }
        json!({
            "p50": self.quantile_ms(0.5),
            "p99": self.quantile_ms(0.99),
            "p999": self.quantile_ms(0.999),
            "max": self.0.max() as f64 / 1e3,
            "count": self.0.len(),
        })
    }

    fn to_text(&self) -> String {
        if self.0.is_empty() {
            return "none measured".to_owned();
        }
        format!(
            "p50 {:.2} · p99 {:.2} · p99.9 {:.2} · max {:.2} ms",
            self.quantile_ms(0.5),
            self.quantile_ms(0.99),
            self.quantile_ms(0.999),
            self.0.max() as f64 / 1e3
        )
    }
}

/// The outcome of one run.
#[derive(Debug)]
pub(crate) struct Report {
    json: Map<String, Value>,
    rows: Vec<(String, String)>,
    failed: Vec<String>,
}

impl Report {
    pub(crate) fn new(bench: &str) -> Self {
        let json = Map::from_iter([("bench".to_owned(), Value::from(bench))]);
        Self { json, rows: Vec::new(), failed: Vec::new() }
    }

    /// Adds a count.
    pub(crate) fn count(&mut self, key: &str, label: &str, value: u64) {
        self.entry(key, label, Value::from(value), grouped(value));
    }

    /// Adds a measured number with its unit; `None` is shown as unknown.
    pub(crate) fn number(&mut self, key: &str, label: &str, value: Option<f64>, unit: &str) {
        let value = value.filter(|value| value.is_finite());
        let text = match value {
            None => "unknown".to_owned(),
            Some(value) if value.abs() >= 1000.0 => format!("{} {unit}", grouped(value.round() as u64)),
            Some(value) => format!("{value:.3} {unit}"),
        };
        let rounded = value.map(|value| (value * 1e6).round() / 1e6);
        self.entry(key, label, json!(rounded), text.trim_end().to_owned());
    }

    /// Adds a text.
    pub(crate) fn text(&mut self, key: &str, label: &str, value: impl Into<String>) {
        let value = value.into();
        self.entry(key, label, Value::from(value.clone()), value);
    }

    /// Adds any JSON and its text for people.
    pub(crate) fn entry(&mut self, key: &str, label: &str, value: Value, text: String) {
        self.json.insert(key.to_owned(), value);
        self.rows.push((label.to_owned(), text));
    }

    /// Adds latencies; `key` carries the unit, milliseconds.
    pub(crate) fn latency(&mut self, key: &str, label: &str, latency: &Latency) {
        self.entry(key, label, latency.to_json(), latency.to_text());
    }

    /// Adds failures by name, and fails the run if there are any.
    pub(crate) fn errors(&mut self, key: &str, label: &str, errors: &Errors) {
        let total: u64 = errors.values().sum();
        let text: Vec<_> = errors.iter().map(|(name, count)| format!("{name}: {count}")).collect();
        let text = if text.is_empty() { "none".to_owned() } else { text.join("\n") };
        self.entry(key, label, json!(errors), text);
        self.check(total == 0, &format!("{label}: {total}"));
    }

    /// Adds a count that has to be 0.
    pub(crate) fn must_be_zero(&mut self, key: &str, label: &str, value: u64) {
        self.count(key, label, value);
        self.check(value == 0, &format!("{label}: {value}"));
    }

    /// Fails the run unless the condition holds.
    pub(crate) fn check(&mut self, holds: bool, what: &str) {
        if !holds {
            self.failed.push(what.to_owned());
        }
    }

    /// Adds what the CPU was used for: cores, and microseconds for each operation (which is seconds for a million).
    pub(crate) fn cpu(&mut self, used: CpuReading, seconds: f64, operations: u64, operation: &str) {
        let each = |cpu: Option<f64>| cpu.filter(|_| operations > 0).map(|cpu| cpu * 1e6 / operations as f64);
        for (who, cpu) in [("server", used.server), ("client", used.client)] {
            self.number(
                &format!("{who}_cpu_us_per_{operation}"),
                &format!("{who} CPU per {operation}"),
                each(cpu),
                "µs",
            );
            self.number(
                &format!("{who}_cores"),
                &format!("{who} cores used"),
                cpu.map(|cpu| cpu / seconds),
                "",
            );
        }
        // Where this is not near 0, the machine was not quiet and the figures say little.
        let others =
            |used: CpuReading| Some((used.machine? - used.server? - used.client?).max(0.0) / seconds);
        self.number("other_cores", "cores used by others", others(used), "");
    }

    /// Prints the report on stdout. True if every check held.
    pub(crate) fn finish(mut self, as_json: bool) -> bool {
        let ok = self.failed.is_empty();
        if as_json {
            self.json.insert("ok".to_owned(), Value::from(ok));
            self.json.insert("failed".to_owned(), Value::from(self.failed));
            crate::out::line(Value::Object(self.json));
            return ok;
        }
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        for (label, text) in self.rows {
            table.add_row([label, text]);
        }
        crate::out::line(table);
        if ok {
            crate::out::line("all checks held");
        } else {
            crate::out::line(format_args!("FAILED\n  {}", self.failed.join("\n  ")));
        }
        ok
    }
}

/// A number with its thousands apart.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A bar on stderr that fills with time; invisible where stderr is no terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub(crate) fn start(what: &'static str, expected: Duration) -> Self {
        let bar = ProgressBar::new(expected.as_millis() as u64).with_prefix(what);
        if let Ok(style) = ProgressStyle::with_template("{prefix:>10} [{bar:40}] {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar }
    }

    /// Sleeps until `deadline`, showing `status` ten times a second. Stops early once `go_on` is false.
    pub(crate) async fn sleep_until(
        &self,
        deadline: tokio::time::Instant,
        mut status: impl FnMut() -> String,
        mut go_on: impl FnMut() -> bool,
    ) {
        const STEP: Duration = Duration::from_millis(100);
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() || !go_on() {
                return;
            }
            tokio::time::sleep(left.min(STEP)).await;
            if !self.bar.is_hidden() {
                self.bar.inc(left.min(STEP).as_millis() as u64);
                self.bar.set_message(status());
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }

    #[test]
    fn quantiles_are_in_milliseconds() {
        let mut latency = Latency::new();
        assert_eq!(latency.to_json(), Value::Null);
        for ms in 1..=100u64 {
            latency.record_ns(ms * 1_000_000);
        }
        let json = latency.to_json();
        assert!((json["p50"].as_f64().unwrap() - 50.0).abs() < 0.1, "{json}");
        assert!((json["p99"].as_f64().unwrap() - 99.0).abs() < 0.1, "{json}");
    }

    #[test]
    fn a_failed_check_fails_the_run() {
        let mut report = Report::new("x");
        report.must_be_zero("lost", "lost", 0);
        assert!(report.failed.is_empty());
        report.must_be_zero("lost", "lost", 2);
        report.errors("errors", "errors", &Errors::from([("TIMEOUT".to_owned(), 3)]));
        assert_eq!(report.failed, ["lost: 2", "errors: 3"]);
    }

    #[test]
    fn cpu_is_told_for_each_operation() {
        let mut report = Report::new("x");
        report.cpu(
            CpuReading { server: Some(2.0), client: Some(1.0), machine: Some(3.4) },
            4.0,
            1_000_000,
            "delivery",
        );
        assert_eq!(report.json["server_cpu_us_per_delivery"], 2.0);
        assert_eq!(report.json["server_cores"], 0.5);
        assert_eq!(report.json["client_cores"], 0.25);
        assert_eq!(report.json["other_cores"], 0.1);
        report.cpu(CpuReading::default(), 4.0, 1_000_000, "delivery");
        assert_eq!(report.json["server_cores"], Value::Null);
    }
}
