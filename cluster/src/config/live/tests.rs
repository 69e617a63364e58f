use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::super::Sources;
use super::*;

fn load(file: &str, env: &[(&str, &str)]) -> Config {
    let mut toml = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut toml, file.as_bytes()).unwrap();
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let sources = Sources { file: Some(toml.path().to_owned()), env, flags: Vec::new() };
    Config::load(&Config::node_defaults(), &sources).unwrap()
}

fn change(live: &Live, wanted: serde_json::Value) -> Result<(), ChangeError> {
    live.change(&serde_json::from_value(wanted).unwrap())
}

#[test]
fn what_can_be_changed_is_a_key_and_has_no_secret() {
    let table = sections(&Config::node_defaults());
    for path in LIVE {
        assert!(schema::find(path).is_some() && at(&table, path).is_some(), "{path}");
    }
}

#[test]
fn keys_change_together_or_not_at_all_and_everybody_is_told() {
    let live = Live::new(load("", &[]));
    let told = Arc::new(AtomicUsize::new(0));
    let seen = told.clone();
    live.on_change(move |config| seen.store(config.limits.max_connections, Ordering::Relaxed));
    change(&live, json!({ "limits.max_connections": 7, "rate.requests_per_s": 3 })).unwrap();
    assert_eq!((told.load(Ordering::Relaxed), live.now().rate.requests_per_s), (7, 3));
    assert_eq!(live.shown()["limits.max_connections"], json!({ "value": 7, "origin": "api", "live": true }));
    let bad = [
        (json!({ "limits.max_connections": 8, "limits.nothing": 1 }), "there is no key limits.nothing"),
        (json!({ "limits.max_connections": 8, "pool.min": 1 }), "pool.min is read when the process starts"),
        (json!({ "limits.max_connections": 8, "auth.jwt_secret": "x" }), "auth.jwt_secret is read when"),
        (json!({ "limits.max_connections": 0 }), "limits.max_connections: expected an integer from 1"),
        (json!({ "limits.max_connections": null }), "limits.max_connections: "),
        (
            json!({ "limits.max_connections": 8, "heartbeat.timeout_ms": 500 }),
            "heartbeat.timeout_ms: expected more",
        ),
        (json!({ "tuning.profile": "huge" }), "tuning.profile: expected \"auto\" or "),
    ];
    for (wanted, problem) in bad {
        let error = change(&live, wanted).unwrap_err().to_string();
        assert!(error.starts_with(problem), "{error}");
    }
    assert_eq!(live.now().limits.max_connections, 7);
}

#[test]
fn a_profile_gives_way_to_what_is_said_of_a_key() {
    let env = [("TICKMESH_LIMITS__STALE_S", "60")];
    let config = load("[tuning]\nprofile = \"report-recommended\"\n[pool]\nmax = 300", &env);
    let limits = &config.limits;
    assert_eq!((limits.max_connections, limits.stale_s, config.pool.min), (2_000, 60, 20));
    assert_eq!(config.origins.of("limits.max_connections").to_string(), "profile report-recommended");
    assert_eq!(config.origins.of("limits.stale_s").to_string(), "environment TICKMESH_LIMITS__STALE_S");
    assert!(config.origins.of("pool.max").to_string().starts_with("file /"));
    assert_eq!(config.origins.of("limits.max_queue_bytes"), &Origin::Default);

    let live = Live::new(config);
    change(&live, json!({ "tuning.profile": "small", "memory.high_percent": 66 })).unwrap();
    let now = live.now();
    assert_eq!((now.limits.max_connections, now.limits.stale_s, now.memory.high_percent), (100, 60, 66));
    assert_eq!(now.pool.min, 20, "needs a restart");
    change(&live, json!({ "tuning.profile": "auto" })).unwrap();
    let now = live.now();
    assert_eq!(now.limits.max_connections, Config::node_defaults().limits.max_connections);
    assert_eq!((now.limits.stale_s, now.memory.high_percent), (60, 66));
}

#[test]
fn reading_the_configuration_again_ends_what_operators_changed() {
    let loaded = load("[limits]\nmax_connections = 5", &[]);
    let live = Live::new(loaded.clone());
    change(&live, json!({ "limits.max_connections": 6, "limits.max_subscriptions": 9 })).unwrap();
    let fresh = load(
        "[limits]\nmax_connections = 8\nmax_message_bytes = 2048\n[node]\nworkers = 3\n[auth]\njwt_secret = \"0123456789abcdef\"",
        &[],
    );
    live.reload(&fresh);
    let kept = needing_restart(&loaded, &fresh);
    let now = live.now();
    assert_eq!((now.limits.max_connections, now.limits.max_subscriptions), (8, 1_000));
    assert_eq!(kept, ["node.workers", "auth.jwt_secret", "limits.max_message_bytes"]);
    assert_ne!(now.limits.max_message_bytes, 2_048);
}

#[test]
fn rules_of_alarms_change_one_by_one() {
    let live =
        Live::new(load("[[alarms.rule]]\nname = \"connections_high\"\nthreshold = 50\nclear = 40", &[]));
    let rule = |name: &str| {
        let now = live.now();
        now.alarms.rule.iter().find(|rule| rule.name.name() == name).cloned().unwrap()
    };
    change(&live, json!({ "alarms.rule": [{ "name": "connections_high", "threshold": 45 }] })).unwrap();
    assert_eq!((rule("connections_high").threshold, rule("connections_high").clear), (45.0, 40.0));
    change(&live, json!({ "alarms.rule": [{ "name": "node_lost", "enabled": false }] })).unwrap();
    assert!(!rule("node_lost").enabled && rule("connections_high").threshold == 45.0);
    for (bad, problem) in [
        (json!([{ "name": "connections_high", "threshold": 30 }]), "clear of rule"),
        (json!([{ "threshold": 30 }]), "a name in each rule"),
        (json!([{ "name": "none" }]), "names of rules"),
        (json!("none"), "a list of tables"),
    ] {
        let error = change(&live, json!({ "alarms.rule": bad })).unwrap_err().to_string();
        assert!(error.starts_with("alarms.rule: expected ") && error.contains(problem), "{error}");
    }
    assert_eq!(rule("connections_high").threshold, 45.0);
    let shown = live.shown();
    assert_eq!(
        (&shown["alarms.rule"]["live"], &shown["alarms.webhooks"]["live"]),
        (&json!(true), &json!(false))
    );
}
