//! Answers of a made-up cluster, in the words of the API.

use serde_json::{Value, json};

use super::model::Answers;

/// When all of it happens: 09:41:49 UTC.
pub(super) const NOW: u64 = 1_764_150_109_000;

/// A member as `/cluster` tells it.
pub(super) fn member(kind: &str, id: &str) -> Value {
    json!({
        "id": id, "kind": kind, "run": 1, "address": "10.0.0.3:8080", "version": "0.1.0", "zone": "",
        "started_at": NOW - 3_600_000, "draining": false, "connections": 1_200, "cpu_percent": 42.5,
        "memory_bytes": 80 << 20, "messages_per_s": 50_000.0, "queue_delay_ms": 0.4, "quality": 97.1,
    })
}

/// A process as it tells itself. Fields of `change` are put over it.
pub(super) fn vitals(kind: &str, id: &str, change: Value) -> Value {
    let mut vitals = json!({
        "id": id, "kind": kind, "run": 1, "address": "10.0.0.3:8080", "version": "0.1.0", "zone": "",
        "started_at": NOW - 3_600_000, "at": NOW, "draining": false, "ready": true,
        "connections": 1_200, "cpu_percent": 42.5, "memory_bytes": 80 << 20, "memory_limit_bytes": 512 << 20,
        "memory_level": "normal", "queue_delay_ms": 0.4, "quality": 97.1,
    });
    let own = if kind == "node" {
        json!({
            "sessions": 1_200, "published_per_s": 100.0, "delivered_per_s": 50_000.0, "sent_bytes_per_s": 9e6,
            "conflated_per_s": 0.0, "latency_ms": {"p50": 1.2, "p95": 4.0, "p99": 9.0}, "redis_up": null,
            "top_rooms": [{"room": "market_EURUSD", "messages_per_s": 10.0, "subscribers": 900}],
        })
    } else {
        json!({"clients": 1_100, "links": 1_100, "pause_ms": {"p50": null, "p99": null}})
    };
    for over in [own, change] {
        for (name, value) in over.as_object().into_iter().flatten() {
            vitals[name] = value.clone();
        }
    }
    vitals
}

/// A room's log of messages: how long ago, in milliseconds, and what.
pub(super) fn log(event: &str, messages: impl IntoIterator<Item = (u64, Value)>) -> Value {
    let messages = messages.into_iter().enumerate().map(|(n, (ago, data))| {
        json!({
            "type": "notification", "event": event, "seq": n + 1, "timestamp": NOW - ago, "server_time": NOW,
            "data": data,
        })
    });
    json!({"room": "system", "epoch": "e", "messages": messages.collect::<Vec<_>>()})
}

pub(super) fn alarm(id: &str, severity: &str, state: &str, text: &str) -> Value {
    json!({
        "id": id, "rule": "node_lost", "severity": severity, "subject": "b", "state": state, "since": NOW - 12_000,
        "at": NOW, "value": 1.0, "threshold": 0.0, "unit": "", "text": text, "acknowledged_by": null,
        "acknowledged_at": null,
    })
}

/// Answers about these processes, of which all are members.
pub(super) fn answers(processes: &[Value]) -> Answers {
    let of = |kind: &str| -> Vec<_> {
        let own = processes.iter().filter(|process| process["kind"] == kind);
        own.map(|process| member(kind, process["id"].as_str().unwrap_or_default())).collect()
    };
    Answers {
        cluster: json!({"node_id": "a", "nodes": of("node"), "gateways": of("gateway")}),
        vitals: Some(log("vitals", processes.iter().map(|process| (500, process.clone())))),
        events: None,
        alarms: Some(json!({"alarms": [], "rules": [], "evaluator": "a"})),
        trouble: None,
    }
}

/// Two nodes and a gateway, an alarm that fires, two events, and an empty cluster beside it.
pub(super) fn small() -> Answers {
    let rooms = json!([
        {"room": "market_EURUSD", "messages_per_s": 10.0, "subscribers": 100},
        {"room": "market_USDJPY", "messages_per_s": 2.0, "subscribers": 3},
    ]);
    let mut answers = answers(&[
        vitals("gateway", "g1", json!({})),
        vitals("node", "a", json!({})),
        vitals(
            "node",
            "b",
            json!({
                "draining": true, "cpu_percent": 7.0, "connections": 20, "memory_level": "high", "top_rooms": rooms,
                "latency_ms": {"p50": 0.5, "p95": 1.0, "p99": 123.4},
            }),
        ),
    ]);
    answers.alarms = Some(json!({"alarms": [
        alarm("latency:b", "warning", "firing", "node b is slow"),
        alarm("node_lost:c", "critical", "firing", "node c is lost"),
        alarm("node_lost:d", "critical", "resolved", "node d is lost"),
    ]}));
    let mut events =
        log("node_joined", [(9_000, json!({"id": "b", "at": NOW - 9_000, "text": "node b has joined"}))]);
    let lost = log(
        "node_lost",
        [(8_000, json!({})), (7_000, json!({"id": "c", "at": NOW - 7_000, "text": "node c is lost"}))],
    );
    if let Some(messages) = events["messages"].as_array_mut() {
        messages.push(lost["messages"][1].clone());
    }
    answers.events = Some(events);
    answers
}
