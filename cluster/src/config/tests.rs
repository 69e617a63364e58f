//! What a user who gets the configuration wrong is told.

use std::io::Write;

use super::*;

fn load(file: &str, env: &[(&str, &str)]) -> Result<Config, String> {
    let mut toml = tempfile::NamedTempFile::new().unwrap();
    toml.write_all(file.as_bytes()).unwrap();
    let sources = Sources {
        file: Some(toml.path().to_owned()),
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        flags: Vec::new(),
    };
    let path = toml.path().display().to_string();
    Config::load(&Config::dev_defaults(), &sources)
        .map_err(|errors| errors.to_string().replace(&path, "FILE"))
}

#[test]
fn later_layers_win_and_keep_what_they_do_not_name() {
    let file = "[limits]\nmax_connections = 5\nmax_in_flight = 7\n[node]\nid = \"f\"";
    let mut sources = Sources {
        env: vec![
            ("TICKMESH_LIMITS__MAX_CONNECTIONS".into(), "6".into()),
            ("TICKMESH_NODE__ID".into(), "e".into()),
        ],
        flags: vec![("--id", "node.id", "flag".into())],
        file: None,
    };
    let mut toml = tempfile::NamedTempFile::new().unwrap();
    toml.write_all(file.as_bytes()).unwrap();
    sources.file = Some(toml.path().to_owned());
    let config = Config::load(&Config::dev_defaults(), &sources).unwrap();
    assert_eq!((config.limits.max_connections, config.limits.max_in_flight), (6, 7));
    assert_eq!((config.node.id.as_str(), config.limits.max_subscriptions), ("flag", 1_000));
}

#[test]
fn every_error_names_key_value_origin_and_what_is_allowed() {
    let cases = [
        (
            "[limits]\nmax_connections = 0",
            "limits.max_connections = 0 (from FILE): expected an integer from 1 to 10000000",
        ),
        (
            "[limits]\nmax_connections = \"many\"",
            "limits.max_connections = \"many\" (from FILE): expected an integer from 1 to 10000000",
        ),
        (
            "[auth]\nanonymous = \"all\"",
            "auth.anonymous = \"all\" (from FILE): expected \"none\" or \"subscribe\" or \"full\"",
        ),
        (
            "[node]\nlisten = \"nowhere:8080\"",
            "node.listen = \"nowhere:8080\" (from FILE): expected an IP address and port such as \"0.0.0.0:8080\"",
        ),
        ("[node]\nlisten = 65536", "node.listen = 65536 (from FILE): expected an IP address and port"),
        (
            "[node]\nlisten_on = 1",
            "node.listen_on (from FILE): unknown key; the keys of node are listen, id, workers",
        ),
        ("[nodes]\nid = 1", "nodes.id (from FILE): unknown section; the sections are node, broker,"),
        ("workers = 1", "workers (from FILE): unknown key; the sections are node,"),
        ("[node\n", "(from FILE): line 1: not TOML"),
        (
            "[broker]\nurl = \"kafka://x\"",
            "broker.url = \"kafka://x\" (from FILE): expected \"memory\", redis://",
        ),
        (
            "[limits]\naccept_per_second = \"slowly\"",
            "limits.accept_per_second = \"slowly\" (from FILE): expected \"auto\", or an integer from 0 to 1000000",
        ),
        (
            "[batch]\nwindow_ms = \"soon\"",
            "batch.window_ms = \"soon\" (from FILE): expected \"auto\", or an integer from 0 to 1000",
        ),
        ("[otlp]\nsample = 1.5", "otlp.sample = 1.5 (from FILE): expected a number from 0 to 1"),
        ("[auth]\njwt_secret = 5", "auth.jwt_secret = *** (from FILE): expected a text"),
        (
            "[auth]\njwt_algorithm = \"RS256\"",
            "auth.jwt_algorithm = RS256 (from FILE): expected auth.jwt_key_file",
        ),
        (
            "[auth]\njwt_algorithm = \"ES256\"\njwt_key_file = \"k\"\njwt_secret = \"0123456789abcdef\"",
            "auth.jwt_secret = *** (from FILE): expected \"\": with auth.jwt_algorithm",
        ),
        (
            "[heartbeat]\nping_interval_ms = 60000",
            "heartbeat.timeout_ms = 60000 (from the defaults): expected more than heartbeat.ping_interval_ms",
        ),
        (
            "[[rooms.class]]\nprefix = \"a\"\nhistory_size = 2000000",
            "expected history_size of class \"a\" to be an integer from 0 to 1000000, not 2000000",
        ),
        ("[[rooms.class]]\nprefix = \"a\"\n[[rooms.class]]\nprefix = \"a\"", "\"a\" is there twice"),
        ("[[rooms.class]]\nprefix = \"a\"\nhistory = 1", "unknown field `history`"),
        (
            "[[auth.api_keys]]\nname = \"x\"\nkey = \"0123456789abcdef\"\nrole = \"king\"",
            "auth.api_keys = *** (from FILE)",
        ),
        (
            "[server]\norigins = [\"https://a example\"]",
            "server.origins = [\"https://a example\"] (from FILE): expected a list of origins",
        ),
        (
            "[server]\norigins = [\"example.com\"]",
            "server.origins = [\"example.com\"] (from FILE): expected a list of origins",
        ),
    ];
    for (file, expected) in cases {
        let errors = load(file, &[]).unwrap_err();
        assert!(errors.contains(expected), "{file:?}\n gave {errors}\n for {expected}");
    }
}

#[test]
fn a_password_in_a_url_that_is_refused_is_not_shown() {
    for (file, host) in [
        ("[broker]\nurl = \"rediss://user:hunter2@cache:6379\"", "cache:6379"),
        ("[otlp]\nendpoint = \"ftp://user:hunter@2@h\"", "h"),
        ("[postgres]\nurl = \"mysql://user:hunter2@h\"", "***"),
    ] {
        let errors = load(file, &[]).unwrap_err();
        assert!(errors.contains(host) && !errors.contains("hunter"), "{errors}");
    }
}

#[test]
fn a_port_alone_is_one_of_the_loopback_address() {
    for text in ["9000", ":9000", "localhost:9000", "127.0.0.1:9000"] {
        assert_eq!(listen_address(text).map(|address| address.to_string()).as_deref(), Ok("127.0.0.1:9000"));
        let config = load("", &[("TICKMESH_NODE__LISTEN", text)]).unwrap();
        assert_eq!(config.node.listen.to_string(), "127.0.0.1:9000", "{text}");
        let config = load(&format!("[server]\nmetrics_listen = {text:?}"), &[]).unwrap();
        assert_eq!(config.server.metrics_listen.map(|at| at.port()), Some(9_000), "{text}");
    }
    assert_eq!(load("[node]\nlisten = 9000", &[]).unwrap().node.listen.to_string(), "127.0.0.1:9000");
    assert_eq!(listen_address("[::]:1").map(|address| address.to_string()).as_deref(), Ok("[::]:1"));
    for bad in
        ["", ":", "localhost", "localhost:", "+9000", "-1", "65536", "0.0.0.0", "example.com:80", " 9000"]
    {
        assert_eq!(listen_address(bad), Err(BadListenAddress), "{bad:?}");
    }
}

#[test]
fn all_errors_come_at_once() {
    let errors =
        load("[limits]\nmax_connections = 0\nmax_conections = 1\n[node]\nworkers = -1", &[]).unwrap_err();
    assert_eq!(errors.lines().count(), 3, "{errors}");
}

#[test]
fn the_environment_is_held_to_the_same_rules() {
    let config = load(
        "",
        &[
            ("TICKMESH_SERVER__ORIGINS", "https://a.example, https://b.example"),
            (
                "TICKMESH_AUTH__API_KEYS",
                "[{ name = \"f\", key = \"0123456789abcdef\", role = \"publisher\" }]",
            ),
            ("TICKMESH_TEST_SOMETHING", "is not a key"),
            ("OTHER__VARIABLE", "is not ours"),
        ],
    )
    .unwrap();
    assert_eq!(config.server.origins, ["https://a.example", "https://b.example"]);
    for (text, ratio) in [("0", 0.0), ("0.25", 0.25), ("1", 1.0)] {
        assert_eq!(
            load("", &[("TICKMESH_OTLP__SAMPLE", text)]).unwrap().otlp.sample.to_bits(),
            f64::to_bits(ratio)
        );
    }
    assert_eq!(load("[otlp]\nsample = 1", &[]).unwrap().otlp.sample.to_bits(), 1f64.to_bits());
    let as_list = load("", &[("TICKMESH_SERVER__ORIGINS", r#"["https://a.example"]"#)]).unwrap();
    assert_eq!(as_list.server.origins, ["https://a.example"]);
    assert_eq!(config.auth.api_keys[0].role, Role::Publisher);
    let errors =
        load("", &[("TICKMESH_LIMITS__MAX_CONNECTIONS", "-5"), ("TICKMESH_LIMIT__X", "1")]).unwrap_err();
    assert!(errors.contains(
        "limits.max_connections = -5 (from TICKMESH_LIMITS__MAX_CONNECTIONS): expected an integer"
    ));
    assert!(errors.contains("limit.x (from TICKMESH_LIMIT__X): unknown section"), "{errors}");
}

#[test]
fn the_fixed_names_are_accepted() {
    let env = [
        ("TICKMESH_AUTH__ANONYMOUS", "full"),
        ("TICKMESH_AUTH__JWT_SECRET", "0123456789abcdef"),
        ("TICKMESH_CLUSTER__SECRET", "0123456789abcdef"),
        ("TICKMESH_LIMITS__MAX_CONNECTIONS", "9"),
        ("TICKMESH_POSTGRES__URL", "postgres://u:p@h/db"),
        ("TICKMESH_TDENGINE__DSN", "taos+ws://h:6041/db"),
        ("TICKMESH_OTLP__ENDPOINT", "http://h:4317"),
        ("TICKMESH_LOG__FORMAT", "json"),
    ];
    let config = load("", &env).unwrap();
    assert_eq!(config.warnings().len(), 1, "the port is that of another protocol: {:?}", config.warnings());
    let shown = config.effective_toml() + &format!("{config:?}");
    assert!(!shown.contains("0123456789abcdef") && !shown.contains("u:p"), "secrets are not shown: {shown}");
}

#[test]
fn the_printed_defaults_are_the_defaults() {
    let text = Config::default_toml();
    assert!(text.contains("# TICKMESH_LIMITS__MAX_CONNECTIONS\nmax_connections = 10000"));
    let table: toml::Table = text.parse().unwrap();
    assert_eq!(table, toml::Table::try_from(Config::node_defaults()).unwrap(), "every key is in the schema");
    let again: Config = table.try_into().unwrap();
    assert_eq!(again.effective_toml(), Config::node_defaults().effective_toml());
}

#[test]
fn the_deletion_cost_needs_the_name_of_the_pod() {
    let key = ("TICKMESH_KUBERNETES__POD_DELETION_COST_MS", "30000");
    let error = load("", &[key]).unwrap_err();
    assert!(error.contains("kubernetes.pod_deletion_cost_ms") && error.contains("node.id"), "{error}");
    let config = load("", &[key, ("TICKMESH_NODE__ID", "tickmesh-node-7d9f8b6c5d-x2x4z")]).unwrap();
    assert_eq!(config.kubernetes.pod_deletion_cost_ms, 30_000);
}

#[test]
fn naming_a_class_leaves_private_rooms_private() {
    use tickmesh_protocol::identity::Identity;
    use tickmesh_protocol::room::{Classes, RoomName};
    let file = "[[rooms.class]]\nprefix = \"vip_\"\n[[rooms.class]]\nprefix = \"user_\"\nhistory_size = 10";
    let classes = Classes::new(load(file, &[]).unwrap().rooms.class);
    let bob = Identity::user("bob");
    for room in ["user_alice", "portfolio_alice"] {
        assert!(!classes.may_subscribe(&bob, &RoomName::new(room).unwrap()), "{room}");
    }
    assert_eq!(classes.of(&RoomName::new("user_alice").unwrap()).history_size, 10);
    assert_eq!(classes.of(&RoomName::new("vip_1").unwrap()).prefix, "vip_");
}

#[test]
fn what_hardly_can_be_meant_is_warned_of() {
    let warned = |file: &str| load(file, &[]).unwrap().warnings().join("; ");
    assert_eq!(warned(""), "");
    assert!(warned("[auth]\nanonymous = \"none\"").contains("nobody can connect"));
    assert_eq!(warned("[auth]\nanonymous = \"none\"\njwt_secret = \"a secret that is long\""), "");
    let short = warned("[auth]\njwt_secret = \"hunter2\"");
    assert!(short.contains("auth.jwt_secret") && !short.contains("hunter2"), "{short}");
}

#[test]
fn the_flush_window_is_a_word_or_a_number() {
    use std::time::Duration;
    let window = |file: &str, env: &[(&str, &str)]| load(file, env).map(|config| config.batch.window);
    assert_eq!(window("", &[]), Ok(FlushWindow::Auto));
    assert_eq!(window("[batch]\nwindow_ms = 7", &[]), Ok(FlushWindow::Fixed(Duration::from_millis(7))));
    let env = [("TICKMESH_BATCH__WINDOW_MS", "auto")];
    assert_eq!(window("[batch]\nwindow_ms = 7", &env), Ok(FlushWindow::Auto));
    let env = [("TICKMESH_BATCH__WINDOW_MS", "0")];
    assert_eq!(window("", &env), Ok(FlushWindow::Fixed(Duration::ZERO)));
}

#[test]
fn the_rate_at_the_door_is_a_word_or_a_number() {
    let rate = |file: &str| load(file, &[]).map(|config| config.limits.accept_per_second);
    assert_eq!(rate(""), Ok(AcceptRate::Auto));
    assert_eq!(rate("[limits]\naccept_per_second = \"auto\""), Ok(AcceptRate::Auto));
    assert_eq!(rate("[limits]\naccept_per_second = 0"), Ok(AcceptRate::Fixed(0)));
    assert_eq!(rate("[limits]\naccept_per_second = 2000"), Ok(AcceptRate::Fixed(2_000)));
}

#[test]
fn rules_are_given_one_by_one_and_key_by_key() {
    let rule = |config: &Config, name: &str| {
        let found = config.alarms.rule.iter().find(|rule| rule.name.name() == name);
        found.cloned().unwrap_or_else(|| panic!("{name}"))
    };
    let file = "[alarms]\nwebhook_retry_ms = 50\n[[alarms.rule]]\nname = \"connections_high\"\nthreshold = 7\nclear = 5";
    let config = load(file, &[]).unwrap();
    let (changed, default) =
        (rule(&config, "connections_high"), rule(&Config::node_defaults(), "connections_high"));
    assert_eq!((changed.threshold, changed.clear, changed.for_ms), (7.0, 5.0, default.for_ms));
    assert_eq!(
        config.alarms.rule.len(),
        Config::node_defaults().alarms.rule.len(),
        "the others are as they were"
    );
    let env = "[{ name = \"node_lost\", enabled = false, severity = \"critical\" }]";
    let config = load("", &[("TICKMESH_ALARMS__RULE", env)]).unwrap();
    assert!(!rule(&config, "node_lost").enabled && rule(&config, "gateway_lost").enabled);
    let shown = load(&config.effective_toml(), &[]).unwrap();
    assert_eq!(shown.alarms.rule, config.alarms.rule, "what is shown can be read");
}

#[test]
fn rules_and_webhooks_that_cannot_be_meant_are_refused() {
    let rule = |text: &str| format!("[[alarms.rule]]\n{text}");
    for (text, problem) in [
        ("threshold = 1", "a name in each rule"),
        ("name = \"load_high\"", "names of rules to be of connections_high,"),
        ("name = \"node_lost\"\n[[alarms.rule]]\nname = \"node_lost\"", "\"node_lost\" is there twice"),
        ("name = \"node_lost\"\nthreshhold = 1", "unknown field `threshhold`"),
        ("name = \"latency_high\"\nthreshold = \"fast\"", "a list of rules: invalid type"),
        (
            "name = \"latency_high\"\nthreshold = 100",
            "clear of rule \"latency_high\" to be at most its threshold 100",
        ),
        (
            "name = \"latency_high\"\nthreshold = nan",
            "threshold of rule \"latency_high\" to be a number from 0",
        ),
        ("name = \"latency_high\"\nfor_ms = -1", "a list of rules: invalid value"),
        (
            "name = \"latency_high\"\nfor_ms = 99999999999",
            "for_ms of rule \"latency_high\" to be an integer from 0",
        ),
        ("name = \"latency_high\"\nseverity = \"fatal\"", "unknown variant `fatal`"),
        ("name = \"redis_away\"\nthreshold = 1", "its figure is 1 or 0"),
    ] {
        let errors = load(&rule(text), &[]).unwrap_err();
        assert!(errors.starts_with("alarms.rule = ") && errors.contains(problem), "{text}\n gave {errors}");
    }
    let secret = "sixteen bytes, at least";
    let hook = |url: &str, secret: &str| {
        format!("[alarms]\nwebhooks = [{{ url = \"{url}\", secret = \"{secret}\" }}]")
    };
    for url in
        ["https://h/hunter2", "http://127.0.0.1:9/hunter2?x=1", "https://[::1]:443", "http://h.example"]
    {
        let config = load(&hook(url, secret), &[]).unwrap();
        assert_eq!(config.alarms.webhooks.len(), 1);
        let shown = config.effective_toml() + &format!("{config:?}");
        assert!(!shown.contains("hunter2") && !shown.contains(secret) && shown.contains("***"), "{shown}");
    }
    let long = format!("https://h/{}", "x".repeat(3_000));
    for bad in [
        "hunter2",
        "ftp://hunter2",
        "https://",
        "https:///hunter2",
        "https://user:hunter2@h/",
        "https://h:0/hunter2",
        "https://h:99999/hunter2",
        "https://h h/hunter2",
        "https://h/hunter2#x",
        "https://[::g]/hunter2",
        "https://h\\r\\nX-Evil: hunter2",
        &long,
    ] {
        let errors = load(&hook(bad, secret), &[]).unwrap_err();
        assert!(
            errors.starts_with("alarms.webhooks = *** (from FILE): expected a list of at most 16"),
            "{bad}: {errors}"
        );
        assert!(!errors.contains("hunter2") && !errors.contains(secret), "{errors}");
    }
    for file in [
        hook("https://h/hunter2", "short"),
        format!(
            "[alarms]\nwebhooks = [{}]",
            vec![format!("{{ url = \"https://h/hunter2\", secret = \"{secret}\" }}"); 2].join(", ")
        ),
        "[alarms]\nwebhooks = [{ url = \"https://h/hunter2\" }]".into(),
        "[alarms]\nwebhooks = \"https://h/hunter2\"".into(),
    ] {
        let errors = load(&file, &[]).unwrap_err();
        assert!(
            errors.starts_with("alarms.webhooks = *** (from FILE)") && !errors.contains("hunter2"),
            "{errors}"
        );
    }
}
