//! All keys of the configuration, in the order in which they are printed.

use super::profiles;
use super::schema::{Key, Kind, key};

/// All keys, in the order in which they are printed.
pub(super) const KEYS: &[Key] = &[
    key(
        "node.listen",
        Kind::Address,
        "Address to listen on. A port alone (\"8080\", \":8080\", \"localhost:8080\") is one of 127.0.0.1; port 0 takes any free port.",
    ),
    key("node.id", Kind::Name, "Name in the cluster; empty for one made at start."),
    key("node.workers", Kind::Int(0, 1_024), "Worker threads; 0 for one per core."),
    key(
        "broker.url",
        Kind::Broker,
        "Where messages are kept and shared. \"memory\": in this process, lost with it. Redis, for any number of nodes:\n\
         redis://[[user]:password@]host[:port][/db], redis+cluster://host:port[,host:port..], or\n\
         redis+sentinel://host:port[,host:port..]/master[/db].",
    ),
    key(
        "broker.timeout_ms",
        Kind::Int(100, 60_000),
        "Milliseconds after which a call to Redis has failed.",
    ),
    key(
        "cluster.lease_ms",
        Kind::Int(500, 600_000),
        "Milliseconds after which a process that does not renew its lease counts as gone.",
    ),
    key(
        "cluster.advertise",
        Kind::Advertise,
        "Where the others reach this process, \"host:port\"; empty for node.listen, or for this machine's host name if that is\n\
         0.0.0.0 or [::].",
    ),
    key("cluster.secret", Kind::Secret, "Shared by the processes of a cluster: the credential of links between gateways and nodes. Without it there are none."),
    key(
        "cluster.zone",
        Kind::Name,
        "Where this process is, such as a data centre: a gateway prefers nodes of its own zone as long as they serve.",
    ),
    key(
        "cluster.tls_ca",
        Kind::Path,
        "Certificates in PEM of those who sign nodes' certificates. With it a gateway reaches nodes by TLS, and a node's\n\
         certificate (server.tls_certificate) has to be for the name or address in its cluster.advertise.",
    ),
    key(
        "gateway.placement",
        Kind::Choice(&["least-loaded", "user", "query"]),
        "Which node a client gets. \"least-loaded\": of two at random the one with less load. \"user\": all connections of\n\
         a user the same one, \"query\": all with the same value of a query parameter, by consistent hashing, unless that\n\
         node has a quarter more than its share.",
    ),
    key("gateway.placement_key", Kind::Text, "The name of that query parameter."),
    key(
        "gateway.moves_per_second",
        Kind::Int(1, 100_000),
        "Connections that a gateway moves each second, from a node that drains or has more than its share.",
    ),
    key(
        "gateway.reuse_port",
        Kind::Bool,
        "Whether another process may listen on a gateway's port (SO_REUSEPORT): a new one can start before the old one\n\
         stops.",
    ),
    key(
        "pool.min",
        Kind::Int(0, 10_000),
        "Links that each worker thread of a gateway keeps ready for each node, so that a client costs no handshake.",
    ),
    key("pool.max", Kind::Int(0, 10_000), "The same while many clients come; at least pool.min."),
    key(
        "pool.idle_ms",
        Kind::Int(100, 3_600_000),
        "Milliseconds after which a ready link beyond pool.min is closed, if nobody needed it.",
    ),
    key(
        "auth.anonymous",
        Kind::Choice(&["none", "subscribe", "full"]),
        "What a connection without a token may do: nothing, subscribe to open rooms, or also publish into them and\n\
         read the API. `tickmesh dev` defaults to \"full\".",
    ),
    key(
        "auth.jwt_algorithm",
        Kind::Choice(&["HS256", "RS256", "ES256"]),
        "How tokens are signed (RFC 7518).",
    ),
    key(
        "auth.jwt_secret",
        Kind::Secret,
        "Key of HS256 tokens. Take 32 random bytes: short ones are guessed offline from a single token.",
    ),
    key("auth.jwt_key_file", Kind::Path, "Public key of RS256 or ES256 tokens, a file in PEM."),
    key(
        "auth.leeway_s",
        Kind::Int(0, 300),
        "Seconds by which the clocks of node and token issuer may differ.",
    ),
    key(
        "auth.api_keys",
        Kind::ApiKeys,
        "Keys for the HTTP API: { name = \"feed\", key = \"...\", role = \"publisher\" }; roles are user, publisher,\n\
         operator; a key has at least 16 bytes.",
    ),
    key(
        "tuning.profile",
        Kind::Choice(profiles::NAMES),
        "Values of several keys under one name; a key that is set by itself wins. \"auto\" sets none. See docs/operations.md.",
    ),
    key("limits.max_connections", Kind::Int(1, 10_000_000), "Connections of a node; more are answered 503."),
    key(
        "limits.max_connections_per_address",
        Kind::Int(0, 10_000_000),
        "Connections from one address (of IPv6, one network of 64 bits); more are answered 503. 0 for any number.",
    ),
    key(
        "limits.max_connections_per_user",
        Kind::Int(0, 10_000_000),
        "Connections of one user at one node; more are closed with 1008. 0 for any number.",
    ),
    key(
        "limits.accept_per_second",
        Kind::IntOr("auto", 0, 1_000_000),
        "Connections that are taken each second; those beyond wait for their turn, in which addresses alternate. \"auto\":\n\
         while messages are delivered 1000, or so many that a crowd waits for eight seconds at most; 0 for any number.",
    ),
    key(
        "limits.accept_queue",
        Kind::Int(0, 1_000_000),
        "Connections that may wait for their turn; more are answered 503, with the time after which there will be one.",
    ),
    key(
        "limits.stale_s",
        Kind::Int(0, 86_400),
        "Seconds after which a client is closed with 4004 that follows no room, and neither sent nor got anything but answers to\n\
         pings. 0 for never.",
    ),
    key(
        "limits.max_message_bytes",
        Kind::Int(1_024, 16_777_216),
        "Largest message of a client; larger ones close with 1009.",
    ),
    key(
        "limits.max_queue_bytes",
        Kind::Int(16_384, 1_073_741_824),
        "Bytes of live messages that may wait for one connection; beyond it closes with 4003.",
    ),
    key(
        "limits.max_queue_age_ms",
        Kind::Int(0, 3_600_000),
        "Milliseconds that the oldest live message may wait for one connection; beyond it closes with 4003. 0 for any time.",
    ),
    key("limits.max_subscriptions", Kind::Int(1, 100_000), "Rooms that one connection may follow."),
    key(
        "limits.max_in_flight",
        Kind::Int(1, 4_096),
        "Requests of one connection that may wait for others; beyond it the connection is not read.",
    ),
    key(
        "limits.max_gate_messages",
        Kind::Int(1, 1_000_000),
        "Live messages held per subscription while its history is read.",
    ),
    key("limits.max_publish_batch", Kind::Int(1, 100_000), "Messages in one HTTP publish."),
    key("limits.max_http_body_bytes", Kind::Int(1_024, 268_435_456), "Largest HTTP body."),
    key(
        "rate.requests_per_s",
        Kind::Int(0, 10_000_000),
        "Messages of one connection each second, of any kind; more are answered RATE_LIMIT_EXCEEDED. 0 for any number, here and\n\
         below.",
    ),
    key("rate.subscribes_per_s", Kind::Int(0, 10_000_000), "Subscriptions of one connection each second."),
    key("rate.publishes_per_s", Kind::Int(0, 10_000_000), "Publishes of one connection each second."),
    key(
        "rate.http_publishes_per_s",
        Kind::Int(0, 10_000_000),
        "Messages that one user or API key publishes over HTTP each second, at one node; without a credential, one address.",
    ),
    key(
        "rate.connects_per_s",
        Kind::Int(0, 10_000_000),
        "Connections from one address (of IPv6, one network of 64 bits) each second; more are answered 429.",
    ),
    key("rate.burst_s", Kind::Int(1, 3_600), "How many seconds' worth of each rate may come at once after a rest."),
    key(
        "memory.limit_bytes",
        Kind::Int(0, 1_000_000_000_000_000),
        "Memory that the process may use. 0 for the least of its control groups' limits and the machine's.",
    ),
    key(
        "memory.high_percent",
        Kind::Int(10, 95),
        "Percent of it from which no more connections are taken and queues are shorter. From seven eighths of it caches are made\n\
         smaller; from half-way between it and 100 the worst connections are closed. See docs/operations.md.",
    ),
    key("memory.interval_ms", Kind::Int(10, 60_000), "Milliseconds between two looks at it."),
    key(
        "memory.cleanup_ms",
        Kind::Int(1_000, 3_600_000),
        "Milliseconds between two sweeps through what is kept in memory for what is out of date.",
    ),
    key(
        "batch.max_messages",
        Kind::Int(1, 100_000),
        "Messages of one room that may wait in the flush window; when there are so many they leave at once.",
    ),
    key("batch.max_bytes", Kind::Int(1_024, 16_777_216), "The same in bytes."),
    key(
        "batch.window_ms",
        Kind::IntOr("auto", 0, 1_000),
        "The flush window: how long a message may wait for others that leave with it in one write. \"auto\": not at all where there\n\
         is CPU left, and up to batch.target_latency_ms where there is not; 0: never; or always so many milliseconds.",
    ),
    key("batch.target_latency_ms", Kind::Int(1, 1_000), "The longest window with \"auto\"."),
    key(
        "heartbeat.ping_interval_ms",
        Kind::Int(100, 3_600_000),
        "Milliseconds between two pings, at most; clients are told.",
    ),
    key(
        "heartbeat.min_ping_interval_ms",
        Kind::Int(100, 3_600_000),
        "The same at least: connections that are not good, or not known yet, are asked more often.",
    ),
    key(
        "heartbeat.timeout_ms",
        Kind::Int(200, 7_200_000),
        "Milliseconds of silence after which a client is gone; more than the interval.",
    ),
    key(
        "socketio.connect_timeout_ms",
        Kind::Int(100, 3_600_000),
        "Milliseconds in which a Socket.IO client has to enter the namespace.",
    ),
    key(
        "server.origins",
        Kind::Origins,
        "Allowed Origin headers, and pages that may use Socket.IO's long-polling (CORS), such as\n\
         \"https://example.com\"; empty or \"*\" for any. Clients that are no browsers send none and are not held to it.",
    ),
    key(
        "server.trusted_proxies",
        Kind::Networks,
        "Networks such as \"10.0.0.0/8\" of proxies whose X-Forwarded-For tells a client's address. From others it is\n\
         ignored.",
    ),
    key(
        "server.tls_certificate",
        Kind::Path,
        "Certificate chain in PEM: clients connect by TLS (https, wss). It and its key are read again when they change.",
    ),
    key("server.tls_key", Kind::Path, "The certificate's key in PEM."),
    key(
        "server.tcp_user_timeout_ms",
        Kind::Int(1_000, 600_000),
        "Milliseconds that a client may take nothing of what waits for it.",
    ),
    key(
        "server.latest_timeout_ms",
        Kind::Int(1_000, 3_600_000),
        "The same for clients that follow rooms, and all of them as \"latest\": what they do not read stays small, so they\n\
         may read as slowly as they like. Not below server.tcp_user_timeout_ms.",
    ),
    key(
        "server.handshake_timeout_ms",
        Kind::Int(100, 600_000),
        "Milliseconds in which a request's head has to arrive.",
    ),
    key(
        "server.shutdown_timeout_ms",
        Kind::Int(0, 600_000),
        "Milliseconds that clients have to leave when the node stops.",
    ),
    key(
        "server.metrics_listen",
        Kind::OptionalAddress,
        "An address of its own for /metrics, which the node's address then does not serve; empty for the node's.",
    ),
    key(
        "dashboard.enabled",
        Kind::Bool,
        "Whether a gateway serves the dashboard at /dashboard. The page is the same for everybody; what it shows is for operators.",
    ),
    key(
        "rooms.class",
        Kind::Classes,
        "Room classes; the longest prefix that matches a room's name wins. What is not named here stays as the defaults\n\
         have it, class by class and key by key. history_size: messages kept, 0 to 1000000;\n\
         history_ttl_s: 1 to 31536000; idempotency_window_s: 1 to 86400; subscribe and publish: everyone, users, owner\n\
         (the user whose id follows the prefix), publishers, operators, nobody; presence: whether subscribers may ask who
\
         else is there; join_events: whether room_member_joined and room_member_left are published into the room; record: whether its\n\
         messages are written to the time-series store; critical_events: names of events that do not wait in the flush window, \"*\" for\n\
         all.",
    ),
    key("log.format", Kind::Choice(&["text", "json"]), "How log lines are written, on standard error."),
    key(
        "log.level",
        Kind::Text,
        "A filter: error, warn, info, debug, trace, also per module: \"info,tickmesh_node=debug\". Read again on SIGHUP. Below\n\
         info there are only this program's own lines: those of libraries may hold what clients sent. `tickmesh dev` defaults to \"warn\".",
    ),
    key(
        "market.prefix",
        Kind::Prefix,
        "Rooms whose name starts so carry the ticks of the symbol that follows. Bars are made of them and alerts look at\n\
         them where their class has record = true.",
    ),
    key(
        "market.late_ms",
        Kind::Int(0, 3_600_000),
        "Milliseconds by which a tick may be older than the newest of its symbol and still change its bars, also closed\n\
         ones; older ones are recorded, but not in bars.",
    ),
    key(
        "market.max_jump_percent",
        Kind::Int(0, 10_000),
        "Percent by which a price may differ from the one before it in bars; a price that the next ones agree with is\n\
         taken after all. 0 for any.",
    ),
    key(
        "market.exchange",
        Kind::Exchanges,
        "When exchanges trade: { name = \"SSE\", time_zone = \"Asia/Shanghai\", sessions = [\"09:30-11:30\", \"13:00-15:00\"],\n\
         days = [\"mon\", \"tue\", \"wed\", \"thu\", \"fri\"] }. name is what ticks call it in data.exchange; \"\" is for all others,\n\
         and by default UTC around the clock. Ticks outside the sessions are recorded, but not in bars.",
    ),
    key("recorder.batch", Kind::Int(1, 100_000), "Ticks in one write to the time-series store, at most."),
    key("recorder.flush_ms", Kind::Int(1, 60_000), "Milliseconds between two writes of what came."),
    key(
        "recorder.buffer",
        Kind::Int(100, 10_000_000),
        "Ticks of one room that wait in memory while the store is slow or away; what is beyond is read from the room's\n\
         log again.",
    ),
    key("users.max_watchlist", Kind::Int(1, 100_000), "Symbols in the watchlist of one user."),
    key("users.max_alerts", Kind::Int(1, 100_000), "Price alerts of one user."),
    key(
        "users.alert_hysteresis_bp",
        Kind::Int(0, 10_000),
        "Hundredths of a percent of an alert's value by which the field has to move away from it before an alert with\n\
         \"crosses\" fires again.",
    ),
    key(
        "stores.breaker_failures",
        Kind::Int(1, 1_000),
        "Calls to a store that fail one after another before it is left alone for a while.",
    ),
    key(
        "stores.breaker_open_ms",
        Kind::Int(10, 600_000),
        "For how many milliseconds; doubled each time that it still fails, up to thirty times as long.",
    ),
    key(
        "postgres.url",
        Kind::SecretUrl(&["postgres", "postgresql"]),
        "The relational store, for keys, watchlists, alerts and audit:\n\
         postgres://user:password@host[:port]/database[?sslmode=require]. Empty: in this process with broker.url = \"memory\",\n\
         none with Redis.",
    ),
    key("postgres.pool_max", Kind::Int(1, 1_000), "Connections of a node to PostgreSQL, at most."),
    key(
        "postgres.timeout_ms",
        Kind::Int(10, 60_000),
        "Milliseconds after which a call has failed, waiting for a connection included.",
    ),
    key(
        "postgres.statement_timeout_ms",
        Kind::Int(10, 60_000),
        "Milliseconds after which the server ends a statement.",
    ),
    key(
        "postgres.tls_ca",
        Kind::Path,
        "Certificates in PEM of those who sign the server's; empty for the public ones. TLS is used where the URL has\n\
         sslmode=require.",
    ),
    key("postgres.audit_days", Kind::Int(1, 3_650), "Days that the audit of sessions goes back."),
    key("postgres.required", Kind::Bool, "Whether a node is not ready for clients while PostgreSQL is away."),
    key(
        "tdengine.dsn",
        Kind::SecretUrl(&["ws", "taos+ws"]),
        "The time-series store, for ticks and bars: ws://user:password@host:6041/database, without TLS. Empty: in this\n\
         process with broker.url = \"memory\", none with Redis.",
    ),
    key("tdengine.pool_max", Kind::Int(1, 1_000), "Connections of a node to TDengine, at most."),
    key(
        "tdengine.timeout_ms",
        Kind::Int(10, 60_000),
        "Milliseconds after which a call has failed, waiting for a connection included.",
    ),
    key("tdengine.tick_days", Kind::Int(1, 36_500), "Days that ticks are kept."),
    key("tdengine.minute_days", Kind::Int(1, 36_500), "Days that bars of less than a day are kept."),
    key("tdengine.daily_days", Kind::Int(1, 36_500), "Days that bars of a day are kept."),
    key("tdengine.required", Kind::Bool, "Whether a node is not ready for clients while TDengine is away."),
    key(
        "otlp.endpoint",
        Kind::Url(&["http", "https"]),
        "Where traces go: a collector's address for OTLP over HTTP, such as http://collector:4318; /v1/traces is added unless it\n\
         is there. Empty: nowhere.",
    ),
    key(
        "otlp.sample",
        Kind::Ratio,
        "Part of the requests that are traced, where they do not say themselves: 0.01 is one of a hundred.",
    ),
    key(
        "otlp.follow_parent",
        Kind::Bool,
        "Whether a request with a traceparent is traced if, and only if, that says so; otherwise otlp.sample decides by its\n\
         trace id. The same for all processes of a cluster.",
    ),
    key(
        "otlp.timeout_ms",
        Kind::Int(10, 60_000),
        "Milliseconds after which the collector has failed to take what it was sent; also what a stop waits for it, at most.",
    ),
    key(
        "otlp.queue",
        Kind::Int(16, 1_000_000),
        "Spans that may wait for the collector; what is beyond is dropped and counted.",
    ),
    key(
        "otlp.tls_ca",
        Kind::Path,
        "Certificates in PEM of those who sign the collector's; empty for the public ones.",
    ),
    key(
        "kubernetes.pod_deletion_cost_ms",
        Kind::Int(0, 3_600_000),
        "Milliseconds between two looks at whether the annotation controller.kubernetes.io/pod-deletion-cost of this\n\
         process's pod, whose name is node.id, is still its number of connections; it is written when it has changed by\n\
         more than a tenth. The service account needs the permission to patch pods/status. 0 for never.",
    ),
    key(
        "kubernetes.service_account",
        Kind::Text,
        "The directory with token, ca.crt and namespace of that service account.",
    ),
    key(
        "alarms.enabled",
        Kind::Bool,
        "Whether the cluster looks at itself by the rules below: see docs/live.md. One node does, for all.",
    ),
    key(
        "alarms.webhook_timeout_ms",
        Kind::Int(100, 60_000),
        "Milliseconds after which a receiver has failed to take an alarm.",
    ),
    key(
        "alarms.webhook_retry_ms",
        Kind::Int(10, 600_000),
        "Milliseconds until an alarm that was not taken is sent again; doubled each time, up to five minutes, less up to a half at\n\
         random.",
    ),
    key(
        "alarms.webhook_give_up_s",
        Kind::Int(1, 604_800),
        "Seconds after which an alarm that was not taken is given up, and after which another node does not send it again.",
    ),
    key("alarms.webhook_queue", Kind::Int(1, 100_000), "Alarms that may wait for one receiver; what is beyond is dropped and counted."),
    key(
        "alarms.webhook_tls_ca",
        Kind::Path,
        "Certificates in PEM of those who sign the receivers'; empty for the public ones.",
    ),
    key(
        "alarms.webhooks",
        Kind::Webhooks,
        "Who is told of alarms: { url = \"https://host/path\", secret = \"...\" }, at most 16. An alarm is posted as JSON when it begins,\n\
         changes its severity and is over, signed with the secret, which has at least 16 bytes. The same for all nodes.",
    ),
    key(
        "alarms.rule",
        Kind::Rules,
        "The rules. What is not named here stays as the defaults have it, rule by rule and key by key. enabled; severity: warning or\n\
         critical; threshold: beyond it for for_ms it fires; clear: at it, or on its other side, for clear_for_ms it is over.\n\
         Thresholds: clients of the cluster, milliseconds, errors per second, points, percent, seconds; 0 for what is so or not.",
    ),
];
