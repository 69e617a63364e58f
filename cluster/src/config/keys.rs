//! All keys of the configuration, in the order in which they are printed.

use super::profiles;
use super::schema::{Key, Kind, key};

/// All keys, in the order in which they are printed.
pub(super) const KEYS: &[Key] = &[
    key(
        "node.listen",
        Kind::Address,
        "Address and port to listen on. A port alone (\"8080\", \":8080\", \"localhost:8080\") means 127.0.0.1. Port 0 takes any free port.",
    ),
    key("node.id", Kind::Name, "Name of this process in the cluster. Empty: a name is made at start."),
    key("node.workers", Kind::Int(0, 1_024), "Number of worker threads. 0: one per core."),
    key(
        "broker.url",
        Kind::Broker,
        "Where the logs of the rooms are kept, and how nodes exchange messages. \"memory\": in this process; they are lost with it.\n\
         Redis, for any number of nodes: redis://[[user]:password@]host[:port][/db],\n\
         redis+cluster://host:port[,host:port..], or redis+sentinel://host:port[,host:port..]/master[/db].",
    ),
    key("broker.timeout_ms", Kind::Int(100, 60_000), "Milliseconds after which a call to Redis has failed."),
    key(
        "broker.memory_bytes",
        Kind::Int(1_048_576, 1_099_511_627_776),
        "Bytes of all rooms' logs with \"memory\". When there are more, the rooms that hold most give up their oldest messages,\n\
         though their class would keep them. `tickmesh dev` defaults to 16 MiB.",
    ),
    key(
        "cluster.lease_ms",
        Kind::Int(500, 600_000),
        "Length of a lease in milliseconds. A process that does not renew its lease for so long counts as gone.",
    ),
    key(
        "cluster.advertise",
        Kind::Advertise,
        "Address at which other processes reach this one, as \"host:port\". Empty: node.listen, or the host name of this\n\
         machine if node.listen is 0.0.0.0 or [::].",
    ),
    key(
        "cluster.secret",
        Kind::Secret,
        "Secret that all processes of a cluster share. Gateways use it to open links to nodes. Without it there are no links.",
    ),
    key(
        "cluster.zone",
        Kind::Name,
        "Zone of this process, for example a data centre. A gateway prefers nodes of its own zone as long as they can serve.",
    ),
    key(
        "cluster.tls_ca",
        Kind::Path,
        "File with the CA certificates, in PEM, that sign the nodes' certificates. If it is set, gateways reach nodes by TLS. A\n\
         node's certificate (server.tls_certificate) then has to be for the name or address in its cluster.advertise.",
    ),
    key(
        "gateway.placement",
        Kind::Choice(&["least-loaded", "user", "query"]),
        "How a gateway chooses the node for a client. \"least-loaded\": the less loaded of two nodes picked at random.\n\
         \"user\": all connections of a user go to the same node. \"query\": all connections with the same value of a query\n\
         parameter go to the same node. Both use consistent hashing; a node takes at most a quarter more than its share.",
    ),
    key("gateway.placement_key", Kind::Text, "Name of the query parameter for placement = \"query\"."),
    key(
        "gateway.moves_per_second",
        Kind::Int(1, 100_000),
        "Maximum number of sessions that a gateway moves per second, from nodes that drain or have more than their share.",
    ),
    key(
        "gateway.reuse_port",
        Kind::Bool,
        "Whether another process may listen on the port of this gateway (SO_REUSEPORT). Then a new gateway can start before\n\
         the old one stops.",
    ),
    key(
        "pool.min",
        Kind::Int(0, 10_000),
        "Idle links that each worker thread of a gateway keeps open to each node, so that a new client needs no handshake\n\
         between gateway and node.",
    ),
    key(
        "pool.max",
        Kind::Int(0, 10_000),
        "Maximum number of such idle links, reached while many clients connect. At least pool.min.",
    ),
    key(
        "pool.idle_ms",
        Kind::Int(100, 3_600_000),
        "Milliseconds after which an unused idle link beyond pool.min is closed.",
    ),
    key(
        "auth.anonymous",
        Kind::Choice(&["none", "subscribe", "full"]),
        "What a connection without a token may do. \"none\": nothing. \"subscribe\": subscribe to open rooms. \"full\": also\n\
         publish into open rooms and read the API. `tickmesh dev` defaults to \"full\".",
    ),
    key(
        "auth.jwt_algorithm",
        Kind::Choice(&["HS256", "RS256", "ES256"]),
        "Signature algorithm of the tokens (RFC 7518).",
    ),
    key(
        "auth.jwt_secret",
        Kind::Secret,
        "Key of HS256 tokens. Use 32 random bytes: a short key can be guessed offline from a single token.",
    ),
    key("auth.jwt_key_file", Kind::Path, "File with the public key of RS256 or ES256 tokens, in PEM."),
    key(
        "auth.leeway_s",
        Kind::Int(0, 300),
        "Seconds by which the clock of the token issuer may differ from the clock of a node.",
    ),
    key(
        "auth.api_keys",
        Kind::ApiKeys,
        "API keys: { name = \"feed\", key = \"...\", role = \"publisher\" }. The roles are user, publisher and operator. A key has\n\
         at least 16 bytes.",
    ),
    key(
        "tuning.profile",
        Kind::Choice(profiles::NAMES),
        "A profile sets several keys at once. A key that is set by itself wins. \"auto\" sets none. See docs/operations.md.",
    ),
    key(
        "limits.max_connections",
        Kind::Int(1, 10_000_000),
        "Maximum number of open connections of a node or gateway. Further connections get HTTP 503.",
    ),
    key(
        "limits.max_connections_per_address",
        Kind::Int(0, 10_000_000),
        "Maximum number of open connections from one address (for IPv6: from one network of 64 bits). Further connections get\n\
         HTTP 503. 0: no limit.",
    ),
    key(
        "limits.max_connections_per_user",
        Kind::Int(0, 10_000_000),
        "Maximum number of open connections of one user at one node. Further connections are closed with 1008. 0: no limit.",
    ),
    key(
        "limits.accept_per_second",
        Kind::IntOr("auto", 0, 1_000_000),
        "Connections that are accepted per second. Further connections wait; addresses take turns. \"auto\": no limit while few\n\
         messages are delivered, otherwise 1000, or more if that is needed to accept all that wait within eight seconds.\n\
         0: no limit.",
    ),
    key(
        "limits.accept_queue",
        Kind::Int(0, 1_000_000),
        "Connections that may wait to be accepted. Further connections get HTTP 503, with the time after which to try again.",
    ),
    key(
        "limits.stale_s",
        Kind::Int(0, 86_400),
        "Seconds after which an inactive client is closed with 4004. A client is inactive if it follows no room, and no message\n\
         but answers to pings went either way. 0: never.",
    ),
    key(
        "limits.max_message_bytes",
        Kind::Int(1_024, 16_777_216),
        "Maximum size of a message from a client. A larger message closes the connection with 1009.",
    ),
    key(
        "limits.max_queue_bytes",
        Kind::Int(16_384, 1_073_741_824),
        "Maximum size of the backlog (live messages that wait) of one connection, in bytes. A larger backlog closes the\n\
         connection with 4003.",
    ),
    key(
        "limits.max_queue_age_ms",
        Kind::Int(0, 3_600_000),
        "Maximum age of the oldest live message in the backlog of one connection, in milliseconds. An older one closes the\n\
         connection with 4003. 0: no limit.",
    ),
    key("limits.max_subscriptions", Kind::Int(1, 100_000), "Maximum number of rooms of one connection."),
    key(
        "limits.max_in_flight",
        Kind::Int(1, 4_096),
        "Maximum number of requests of one connection that wait for their answers. At the limit, the server reads no further\n\
         request from the connection.",
    ),
    key(
        "limits.max_gate_messages",
        Kind::Int(1, 1_000_000),
        "Maximum number of live messages that are held for a subscription while its history is read.",
    ),
    key("limits.max_publish_batch", Kind::Int(1, 100_000), "Maximum number of messages in one HTTP publish."),
    key("limits.max_http_body_bytes", Kind::Int(1_024, 268_435_456), "Maximum size of an HTTP body."),
    key(
        "rate.requests_per_s",
        Kind::Int(0, 10_000_000),
        "Messages of any kind that one connection may send per second. Further messages get RATE_LIMIT_EXCEEDED.\n\
         0: no limit, for all rates of this section.",
    ),
    key("rate.subscribes_per_s", Kind::Int(0, 10_000_000), "Subscriptions of one connection per second."),
    key("rate.publishes_per_s", Kind::Int(0, 10_000_000), "Publishes of one connection per second."),
    key(
        "rate.http_publishes_per_s",
        Kind::Int(0, 10_000_000),
        "Messages that one user or API key may publish over HTTP per second, at one node. Without a credential, the limit is per\n\
         address.",
    ),
    key(
        "rate.connects_per_s",
        Kind::Int(0, 10_000_000),
        "New connections from one address per second (for IPv6: from one network of 64 bits). Further connections get HTTP 429.",
    ),
    key(
        "rate.burst_s",
        Kind::Int(1, 3_600),
        "Seconds' worth of each rate that may come at once after a pause.",
    ),
    key(
        "memory.limit_bytes",
        Kind::Int(0, 1_000_000_000_000_000),
        "Memory that the process may use. 0: the smallest of the limits of its control groups and the memory of the machine.",
    ),
    key(
        "memory.high_percent",
        Kind::Int(10, 95),
        "Percent of memory.limit_bytes at which memory is \"high\": the process then accepts no more connections and shortens\n\
         backlogs. It makes caches smaller from 7/8 of this value on. Half-way between this value and 100 it closes the worst\n\
         connections. See docs/operations.md.",
    ),
    key("memory.interval_ms", Kind::Int(10, 60_000), "Milliseconds between two measurements of memory."),
    key(
        "memory.cleanup_ms",
        Kind::Int(1_000, 3_600_000),
        "Milliseconds between two clean-ups, which remove outdated data from memory.",
    ),
    key(
        "batch.max_messages",
        Kind::Int(1, 100_000),
        "Messages of one room that may wait in the flush window. When there are so many, they are sent at once.",
    ),
    key("batch.max_bytes", Kind::Int(1_024, 16_777_216), "The same limit in bytes."),
    key(
        "batch.window_ms",
        Kind::IntOr("auto", 0, 1_000),
        "The flush window: how long a message may wait for others that are sent with it in one write. \"auto\": no wait while\n\
         there is CPU to spare, and up to batch.target_latency_ms otherwise. 0: no wait. A number: always so many milliseconds.",
    ),
    key(
        "batch.target_latency_ms",
        Kind::Int(1, 1_000),
        "Maximum flush window with window_ms = \"auto\", in milliseconds.",
    ),
    key(
        "heartbeat.ping_interval_ms",
        Kind::Int(100, 3_600_000),
        "Maximum milliseconds between two pings to a client. The server tells clients this value.",
    ),
    key(
        "heartbeat.min_ping_interval_ms",
        Kind::Int(100, 3_600_000),
        "Minimum milliseconds between two pings. The server pings a connection more often if its quality is low or not yet known.",
    ),
    key(
        "heartbeat.timeout_ms",
        Kind::Int(200, 7_200_000),
        "Milliseconds of silence after which a client counts as gone. More than ping_interval_ms.",
    ),
    key(
        "socketio.connect_timeout_ms",
        Kind::Int(100, 3_600_000),
        "Milliseconds within which a Socket.IO client has to enter the namespace.",
    ),
    key(
        "server.origins",
        Kind::Origins,
        "Allowed Origin headers of WebSockets, and pages that may use Socket.IO's long-polling (CORS), for example\n\
         \"https://example.com\". Empty or \"*\": any. Clients that are not browsers send no Origin; they are always allowed.",
    ),
    key(
        "server.trusted_proxies",
        Kind::Networks,
        "Networks of trusted proxies, for example \"10.0.0.0/8\". The server takes a client's address from their X-Forwarded-For\n\
         header. It ignores this header from other addresses.",
    ),
    key(
        "server.tls_certificate",
        Kind::Path,
        "File with the certificate chain, in PEM. If it is set, clients connect by TLS (https, wss). The certificate and its key\n\
         are read again when they change.",
    ),
    key("server.tls_key", Kind::Path, "File with the key of the certificate, in PEM."),
    key(
        "server.tcp_user_timeout_ms",
        Kind::Int(1_000, 600_000),
        "Milliseconds after which a connection is closed whose client reads nothing of the data that waits for it.",
    ),
    key(
        "server.latest_timeout_ms",
        Kind::Int(1_000, 3_600_000),
        "The same for clients that follow rooms, and all of them with delivery \"latest\". Their backlog stays small, so they may\n\
         read slowly. Not below server.tcp_user_timeout_ms.",
    ),
    key(
        "server.handshake_timeout_ms",
        Kind::Int(100, 600_000),
        "Milliseconds within which the head of a request has to arrive.",
    ),
    key(
        "server.shutdown_timeout_ms",
        Kind::Int(0, 600_000),
        "Milliseconds that clients have to leave when the process stops.",
    ),
    key(
        "server.metrics_listen",
        Kind::OptionalAddress,
        "Separate address for /metrics. The address of the process then does not serve /metrics. Empty: no separate address.",
    ),
    key(
        "dashboard.enabled",
        Kind::Bool,
        "Whether a gateway serves the dashboard at /dashboard. Everyone can load the page; only operators get its data.",
    ),
    key(
        "rooms.class",
        Kind::Classes,
        "Room classes. The class of a room is the one with the longest prefix that matches the room's name. Classes and keys that\n\
         are not set here keep their defaults. The keys of a class:\n\
         * history_size: messages that the log keeps, 0 to 1000000.\n\
         * history_ttl_s: seconds that the log keeps a message, 1 to 31536000.\n\
         * idempotency_window_s: seconds for which a message_id is remembered, 1 to 86400.\n\
         * subscribe, publish: who may do it: everyone, users, owner (the user whose id follows the prefix), publishers,\n\
         operators, nobody.\n\
         * presence: whether subscribers may ask who else is in the room.\n\
         * join_events: whether room_member_joined and room_member_left are published into the room.\n\
         * record: whether messages are written to the time-series store.\n\
         * critical_events: names of events that do not wait in the flush window, \"*\" for all.",
    ),
    key("log.format", Kind::Choice(&["text", "json"]), "Format of log lines. They go to standard error."),
    key(
        "log.level",
        Kind::Text,
        "Log filter: error, warn, info, debug, trace, also per module: \"info,tickmesh_node=debug\". Read again on SIGHUP.\n\
         Below info, only lines of tickmesh itself are written: lines of libraries may contain what clients sent. `tickmesh dev` has \"warn\".",
    ),
    key(
        "market.prefix",
        Kind::Prefix,
        "Prefix of market rooms. The symbol follows the prefix: market_EURUSD. If the class of the room has record = true, bars are\n\
         made of its ticks, and price alerts are checked against them.",
    ),
    key(
        "market.late_ms",
        Kind::Int(0, 3_600_000),
        "Milliseconds by which a tick may be older than the newest tick of its symbol and still change bars, also closed ones.\n\
         Older ticks are recorded, but are not in bars.",
    ),
    key(
        "market.max_jump_percent",
        Kind::Int(0, 10_000),
        "Percent by which the price of a tick may differ from the previous price. A tick beyond that is not in bars, unless the\n\
         next ticks confirm its price. 0: any difference.",
    ),
    key(
        "market.exchange",
        Kind::Exchanges,
        "Trading hours of exchanges: { name = \"SSE\", time_zone = \"Asia/Shanghai\", sessions = [\"09:30-11:30\", \"13:00-15:00\"],\n\
         days = [\"mon\", \"tue\", \"wed\", \"thu\", \"fri\"] }. name is the value of data.exchange in ticks; \"\" is for all other ticks,\n\
         by default UTC around the clock. Ticks outside the sessions are recorded, but are not in bars.",
    ),
    key("recorder.batch", Kind::Int(1, 100_000), "Maximum ticks in one write to the time-series store."),
    key("recorder.flush_ms", Kind::Int(1, 60_000), "Milliseconds between writes to the time-series store."),
    key(
        "recorder.buffer",
        Kind::Int(100, 10_000_000),
        "Ticks of one room that wait in memory while the store is slow or away. Further ticks are read from the room's log later.",
    ),
    key("users.max_watchlist", Kind::Int(1, 100_000), "Maximum number of symbols in a user's watchlist."),
    key("users.max_alerts", Kind::Int(1, 100_000), "Maximum number of price alerts of one user."),
    key(
        "users.alert_hysteresis_bp",
        Kind::Int(0, 10_000),
        "Hysteresis of price alerts with \"crosses\", in hundredths of a percent of the alert's value. The field has to move away\n\
         from the value by so much before the alert fires again.",
    ),
    key(
        "stores.breaker_failures",
        Kind::Int(1, 1_000),
        "Failed calls in a row after which a node stops calling a store for a while.",
    ),
    key(
        "stores.breaker_open_ms",
        Kind::Int(10, 600_000),
        "How long it does not call the store then, in milliseconds. Doubled each time the store still fails, up to 30 times.",
    ),
    key(
        "stores.memory_tick_bytes",
        Kind::Int(1_048_576, 1_099_511_627_776),
        "Bytes of ticks that a process keeps in memory where tdengine.dsn is empty. When there are more, the rooms that hold most\n\
         give up their oldest ticks.",
    ),
    key(
        "stores.memory_bar_bytes",
        Kind::Int(1_048_576, 1_099_511_627_776),
        "The same of bars: the symbols and periods that hold most give up their oldest bars, so those of longer periods stay for\n\
         longer.",
    ),
    key(
        "stores.memory_user_bytes",
        Kind::Int(1_048_576, 1_099_511_627_776),
        "Bytes of users' data that a process keeps in memory where postgres.url is empty. A quarter is for the audit and a quarter\n\
         for the hits of alerts, of which the oldest go; half is for keys, watchlists and alerts, which are refused when there\n\
         are more.",
    ),
    key(
        "postgres.url",
        Kind::SecretUrl(&["postgres", "postgresql"]),
        "The relational store, for keys, watchlists, alerts and audit:\n\
         postgres://user:password@host[:port]/database[?sslmode=require]. Empty: in the memory of this process if broker.url is\n\
         \"memory\"; no such store with Redis.",
    ),
    key("postgres.pool_max", Kind::Int(1, 1_000), "Maximum number of connections of a node to PostgreSQL."),
    key(
        "postgres.timeout_ms",
        Kind::Int(10, 60_000),
        "Milliseconds after which a call counts as failed. This includes the wait for a connection.",
    ),
    key(
        "postgres.statement_timeout_ms",
        Kind::Int(10, 60_000),
        "Milliseconds after which the server cancels a statement.",
    ),
    key(
        "postgres.tls_ca",
        Kind::Path,
        "File with the CA certificates, in PEM, that sign the server's certificate. Empty: the public CAs. TLS is used if the URL\n\
         has sslmode=require.",
    ),
    key("postgres.audit_days", Kind::Int(1, 3_650), "Days for which the audit of sessions is kept."),
    key("postgres.required", Kind::Bool, "Whether /readyz of a node is 503 while PostgreSQL is away."),
    key(
        "tdengine.dsn",
        Kind::SecretUrl(&["ws", "taos+ws"]),
        "The time-series store, for ticks and bars: ws://user:password@host:6041/database, without TLS. Empty: in the memory of\n\
         this process if broker.url is \"memory\"; no such store with Redis.",
    ),
    key("tdengine.pool_max", Kind::Int(1, 1_000), "Maximum number of connections of a node to TDengine."),
    key(
        "tdengine.timeout_ms",
        Kind::Int(10, 60_000),
        "Milliseconds after which a call counts as failed. This includes the wait for a connection.",
    ),
    key("tdengine.tick_days", Kind::Int(1, 36_500), "Days for which ticks are kept."),
    key("tdengine.minute_days", Kind::Int(1, 36_500), "Days for which bars shorter than a day are kept."),
    key("tdengine.daily_days", Kind::Int(1, 36_500), "Days for which bars of one day are kept."),
    key("tdengine.required", Kind::Bool, "Whether /readyz of a node is 503 while TDengine is away."),
    key(
        "otlp.endpoint",
        Kind::Url(&["http", "https"]),
        "Address of the collector of traces (OTLP over HTTP), for example http://collector:4318. /v1/traces is added unless it is\n\
         there. Empty: no traces.",
    ),
    key(
        "otlp.sample",
        Kind::Ratio,
        "Part of the requests that are traced, if the request itself does not decide it: 0.01 is one in a hundred.",
    ),
    key(
        "otlp.follow_parent",
        Kind::Bool,
        "Whether the sampled flag in a request's traceparent decides if the request is traced. Otherwise otlp.sample decides, by\n\
         the trace id. Use the same value in all processes of a cluster.",
    ),
    key(
        "otlp.timeout_ms",
        Kind::Int(10, 60_000),
        "Milliseconds after which an export to the collector counts as failed. A process that stops also waits so long at most.",
    ),
    key(
        "otlp.queue",
        Kind::Int(16, 1_000_000),
        "Maximum number of spans that wait for the collector. Further spans are dropped and counted.",
    ),
    key(
        "otlp.tls_ca",
        Kind::Path,
        "File with the CA certificates, in PEM, that sign the collector's certificate. Empty: the public CAs.",
    ),
    key(
        "kubernetes.pod_deletion_cost_ms",
        Kind::Int(0, 3_600_000),
        "Milliseconds between two checks of the annotation controller.kubernetes.io/pod-deletion-cost of this process's pod,\n\
         whose name is node.id. Its value is the number of connections. It is written when it has changed by more than a tenth.\n\
         The service account needs the permission to patch pods/status. 0: never.",
    ),
    key(
        "kubernetes.service_account",
        Kind::Text,
        "Directory of that service account: token, ca.crt, namespace.",
    ),
    key(
        "alarms.enabled",
        Kind::Bool,
        "Whether the alarm rules below are evaluated. One node does it for the whole cluster. See docs/live.md.",
    ),
    key(
        "alarms.webhook_timeout_ms",
        Kind::Int(100, 60_000),
        "Milliseconds within which a receiver has to answer. Without an answer the delivery has failed.",
    ),
    key(
        "alarms.webhook_retry_ms",
        Kind::Int(10, 600_000),
        "Milliseconds until a failed delivery is sent again. The time doubles each time, up to five minutes. Each wait is\n\
         shortened at random by up to one half.",
    ),
    key(
        "alarms.webhook_give_up_s",
        Kind::Int(1, 604_800),
        "Seconds after which a failed delivery is given up. A new evaluator does not send older ones again.",
    ),
    key(
        "alarms.webhook_queue",
        Kind::Int(1, 100_000),
        "Maximum number of deliveries that wait for one receiver. Further deliveries are dropped and counted.",
    ),
    key(
        "alarms.webhook_tls_ca",
        Kind::Path,
        "File with the CA certificates, in PEM, that sign the receivers' certificates. Empty: the public CAs.",
    ),
    key(
        "alarms.webhooks",
        Kind::Webhooks,
        "Receivers of alarms: { url = \"https://host/path\", secret = \"...\" }, at most 16. An alarm is sent by POST as JSON when it\n\
         begins, when its severity changes, and when it is resolved. It is signed with the secret, which has at least 16 bytes.\n\
         Use the same value at all nodes.",
    ),
    key(
        "alarms.rule",
        Kind::Rules,
        "Alarm rules. Rules and keys that are not set here keep their defaults. The keys of a rule:\n\
         * enabled: whether it is evaluated.\n\
         * severity: warning or critical.\n\
         * threshold, for_ms: the alarm fires when its figure has been beyond threshold for for_ms milliseconds.\n\
         * clear, clear_for_ms: it is resolved when its figure has been at clear, or better, for clear_for_ms milliseconds.\n\
         Units of threshold and clear: clients of the cluster, milliseconds, errors per second, points, percent, or seconds.\n\
         They are 0 for a rule about a state, such as redis_away.",
    ),
];
