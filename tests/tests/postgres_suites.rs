//! What the store in memory must do, the one on PostgreSQL does as well: the same suites, against a real server. And what
//! only a real one can show: nodes that start together, a server that is killed or hangs, TLS.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::join_all;
use tickmesh_cluster::config::{PostgresConfig, Secret};
use tickmesh_protocol::market::{AlertSpec, Symbol};
use tickmesh_store::StoreError;
use tickmesh_store::relational::postgres::Postgres;
use tickmesh_store::relational::{AlertState, suite};
use tickmesh_tests::{Authority, DEADLINE, PostgresServer, eventually};
use tokio::time::{Instant, timeout};
use tokio_postgres::NoTls;

/// Of a call, in the tests where it has to run out: long enough for calls that are to succeed on a busy machine.
const TIMEOUT: Duration = Duration::from_millis(2_000);

fn config(url: &str) -> PostgresConfig {
    PostgresConfig {
        url: Secret::new(url),
        pool_max: 8,
        timeout_ms: 20_000,
        statement_timeout_ms: 15_000,
        tls_ca: None,
        audit_days: 30,
        required: true,
    }
}

/// Calls that end soon, on few connections.
fn hasty(url: &str) -> PostgresConfig {
    let timeout_ms = TIMEOUT.as_millis() as u64;
    PostgresConfig { pool_max: 2, timeout_ms, statement_timeout_ms: timeout_ms / 2, ..config(url) }
}

fn connect(config: &PostgresConfig) -> Postgres {
    Postgres::new(config, "n1").expect("a configuration")
}

async fn migrated(config: &PostgresConfig) -> Postgres {
    let postgres = connect(config);
    postgres.migrate().await.expect("migrated");
    postgres
}

fn symbol(name: &str) -> Symbol {
    Symbol::new(name).expect("a symbol")
}

/// Asks until the answer is an error. Each comes, though the server may say nothing.
async fn fails(postgres: &Postgres) -> StoreError {
    let watchlists = postgres.relational().watchlists;
    let end = Instant::now() + DEADLINE;
    loop {
        match timeout(DEADLINE, watchlists.list("u")).await.expect("an answer") {
            Err(error) => return error,
            Ok(_) => assert!(Instant::now() < end, "it fails"),
        }
    }
}

#[tokio::test]
async fn all_suites() {
    let server = PostgresServer::start();
    let postgres = migrated(&config(&server.url())).await;
    suite::run(&postgres.relational()).await;
    let status = postgres.pool_status();
    assert_eq!((status.available, status.waiting, status.max), (status.size, 0, 8), "all are given back");
    assert_eq!(server.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), "0");
    let names =
        "SELECT DISTINCT application_name FROM pg_stat_activity WHERE application_name LIKE 'tickmesh/%'";
    assert_eq!(server.sql(names), "tickmesh/n1");
}

#[tokio::test]
async fn nodes_that_start_together_make_the_tables_once() {
    let server = PostgresServer::start();
    let nodes = (0..5).map(|_| {
        let postgres = connect(&config(&server.url()));
        tokio::spawn(async move { postgres.migrate().await })
    });
    for node in nodes.collect::<Vec<_>>() {
        assert_eq!(node.await.expect("it ends"), Ok(()));
    }
    assert_eq!(server.sql("SELECT version FROM refinery_schema_history"), "1");
    let postgres = migrated(&config(&server.url())).await;
    assert_eq!(postgres.ping().await, Ok(()));

    // A node of an older version does not work on tables that it does not know.
    let newer = "INSERT INTO refinery_schema_history SELECT 999, 'newer', applied_on, checksum FROM refinery_schema_history";
    assert_eq!(server.sql(newer), "");
    let Err(StoreError::Refused(text)) = postgres.migrate().await else { panic!("it is refused") };
    assert!(text.contains("newer") && text.contains("999"), "{text}");
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back() {
    let mut server = PostgresServer::start();
    let postgres = migrated(&PostgresConfig { pool_max: 2, ..config(&server.url()) }).await;
    let all = postgres.relational();
    for round in 0..3 {
        let name = symbol(&format!("S{round}"));
        // All connections are there and idle.
        let (one, other) = tokio::join!(postgres.ping(), postgres.ping());
        assert_eq!((one, other), (Ok(()), Ok(())));
        assert_eq!(all.watchlists.add("u", &name, 9).await, Ok(true));
        server.kill();
        let error = fails(&postgres).await;
        assert!(matches!(error, StoreError::Unavailable(_) | StoreError::Timeout), "{error}");
        let error = all.watchlists.add("u", &name, 9).await.expect_err("it is away");
        assert!(matches!(error, StoreError::Unavailable(_) | StoreError::Timeout), "{error}");
        server.restart();
        // Broken connections are not handed to calls: the first one succeeds.
        assert_eq!(all.watchlists.list("u").await.map(|symbols| symbols.len()), Ok(round + 1));
    }
}

/// Ends the connections of stores.
const TERMINATE: &str = "SELECT bool_and(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'tickmesh/%'";

#[tokio::test]
async fn connections_that_end_are_not_noticed_by_callers() {
    let server = PostgresServer::start();
    let postgres = migrated(&config(&server.url())).await;
    let alerts = postgres.relational().alerts;
    let spec = AlertSpec::parse(r#"{"symbol":"A","field":"price","op":">","value":1}"#).expect("an alert");
    let state = AlertState::default();
    for _ in 0..5 {
        let (one, other) = tokio::join!(postgres.ping(), postgres.ping());
        assert_eq!((one, other), (Ok(()), Ok(())));
        assert_eq!(server.sql(TERMINATE), "t");
        assert!(alerts.create("u", &spec, &state, 1, 99).await.expect("created").is_some());
    }
    // In the middle of a transaction: what was not committed is done again.
    let (blocker, connection) = tokio_postgres::connect(&server.url(), NoTls).await.expect("connected");
    tokio::spawn(connection);
    blocker.batch_execute("BEGIN; LOCK TABLE alerts").await.expect("locked");
    let in_the_middle = async {
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'alerts'::regclass";
        eventually("it waits", || async { server.sql(waits) == "1" }).await;
        assert_eq!(server.sql(TERMINATE), "t");
        eventually("it waits again", || async { server.sql(waits) == "1" }).await;
        blocker.batch_execute("ROLLBACK").await.expect("unlocked");
    };
    let (created, ()) = tokio::join!(alerts.create("u", &spec, &state, 1, 99), in_the_middle);
    assert!(created.expect("created").is_some());
    assert_eq!(alerts.of_user("u").await.map(|alerts| alerts.len()), Ok(6), "each once");

    // Another node's migration changes a table under statements that are prepared on all connections.
    let calls = async || join_all((0..8).map(|_| alerts.of_user("u"))).await;
    assert!(calls().await.iter().all(Result::is_ok));
    assert_eq!(server.sql("ALTER TABLE alerts ALTER COLUMN field TYPE VARCHAR(64)"), "");
    assert!(calls().await.iter().all(Result::is_ok), "prepared again");
}

#[tokio::test]
async fn a_server_that_hangs() {
    let server = PostgresServer::start();
    migrated(&config(&server.url())).await;
    let postgres = connect(&hasty(&server.url()));
    assert_eq!(postgres.ping().await, Ok(()));
    server.pause();
    for _ in 0..2 {
        assert_eq!(fails(&postgres).await, StoreError::Timeout);
    }
    server.resume();
    eventually("it answers again", || async { postgres.ping().await.is_ok() }).await;
    eventually("all connections are idle", || async {
        let status = postgres.pool_status();
        status.available == status.size && status.waiting == 0
    })
    .await;
    // The connections of calls that were given up end, so that they do not use up the server's.
    eventually("given up connections end", || async {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'tickmesh/%'";
        server.sql(count).parse::<usize>().expect("a number") <= 2
    })
    .await;
}

#[tokio::test]
async fn statements_that_wait_end_and_the_pool_recovers() {
    let server = PostgresServer::start();
    migrated(&config(&server.url())).await;
    let postgres = connect(&hasty(&server.url()));
    let watchlists = postgres.relational().watchlists;
    assert_eq!(watchlists.add("u", &symbol("A"), 9).await, Ok(true));
    // Somebody holds what the calls need.
    let (blocker, connection) = tokio_postgres::connect(&server.url(), NoTls).await.expect("connected");
    tokio::spawn(connection);
    blocker.batch_execute("BEGIN; LOCK TABLE watchlist_entries").await.expect("locked");
    // More calls than connections: all end, those that got no connection too, and not one after the other.
    let answers = join_all((0..6).map(|_| watchlists.list("u"))).await;
    assert!(answers.iter().all(|answer| *answer == Err(StoreError::Timeout)), "{answers:?}");
    eventually("the connections are free again", || async { postgres.ping().await.is_ok() }).await;
    blocker.batch_execute("ROLLBACK").await.expect("unlocked");
    assert_eq!(watchlists.list("u").await, Ok(vec![symbol("A")]));
    // Calls that nobody waits for any more leave nothing behind.
    blocker.batch_execute("BEGIN; LOCK TABLE watchlist_entries").await.expect("locked");
    for _ in 0..10 {
        let given_up = timeout(Duration::from_millis(50), watchlists.add("u", &symbol("B"), 9)).await;
        assert!(given_up.is_err(), "it waits for the lock");
    }
    eventually("a connection is free", || async { postgres.ping().await.is_ok() }).await;
    blocker.batch_execute("ROLLBACK").await.expect("unlocked");
    assert_eq!(watchlists.add("u", &symbol("C"), 9).await, Ok(true));
    eventually("all connections are idle", || async {
        let status = postgres.pool_status();
        status.available == status.size && status.waiting == 0
    })
    .await;
}

#[tokio::test]
async fn a_server_without_connections_to_give() {
    let server = PostgresServer::with(&["max_connections=4", "superuser_reserved_connections=0"]);
    let patient = migrated(&PostgresConfig { pool_max: 3, ..config(&server.url()) }).await;
    let (one, two, three) = tokio::join!(patient.ping(), patient.ping(), patient.ping());
    assert_eq!((one, two, three), (Ok(()), Ok(()), Ok(())));
    let others = connect(&hasty(&server.url()));
    let answers = tokio::join!(others.ping(), others.ping());
    for error in [answers.0, answers.1].into_iter().filter_map(Result::err) {
        assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("53300")), "{error}");
    }
}

#[tokio::test]
async fn connections_by_tls() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = PostgresServer::with_tls(&authority);
    let with = |url: &str, ca: PathBuf| PostgresConfig { tls_ca: Some(ca), ..config(url) };
    let url = format!("{}?sslmode=require", server.url());
    let trusted = migrated(&with(&url, authority.path("ca.pem"))).await;
    assert_eq!(trusted.ping().await, Ok(()));
    // Naming an authority is to ask for it.
    assert_eq!(connect(&with(&server.url(), authority.path("ca.pem"))).ping().await, Ok(()));
    suite::watchlists(&*trusted.relational().watchlists).await;

    for refused in [
        with(&url, stranger.path("ca.pem")),
        // The public authorities did not sign it.
        config(&url),
        // It takes no other connections.
        config(&server.url()),
    ] {
        let error = connect(&refused).ping().await.expect_err("refused");
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        let error = connect(&refused).migrate().await.expect_err("refused");
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
}
