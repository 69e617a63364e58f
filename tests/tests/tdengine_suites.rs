//! What the series in memory must do, the series on TDengine do as well: the same suite, with the real driver, against a stub
//! of the protocol; and against a real server where `TICKMESH_TEST_TDENGINE` names one (its DSN without a database).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{SinkExt, StreamExt};
use tickmesh_cluster::config::{Config, Secret, TdengineConfig};
use tickmesh_protocol::market::{Period, Symbol, Timeframe};
use tickmesh_protocol::room::RoomName;
use tickmesh_store::series::tdengine::Tdengine;
use tickmesh_store::series::{BarQuery, RoomRows, Select, TimeSeries, suite};
use tickmesh_store::{StoreError, Stores};
use tickmesh_tests::taos_stub::{Cell, TaosStub};
use tickmesh_tests::{DEADLINE, eventually, free_address};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

/// What a call may take where it has to run out, and yet succeeds otherwise.
const SHORT: Duration = Duration::from_millis(1_500);
/// What a call may take where it does not run out.
const LONG: Duration = Duration::from_secs(20);

fn open(dsn: &str, timeout: Duration) -> Tdengine {
    let config = TdengineConfig {
        dsn: Secret::new(dsn),
        pool_max: 4,
        timeout_ms: timeout.as_millis() as u64,
        tick_days: 30,
        minute_days: 365,
        daily_days: 3_650,
        required: true,
    };
    Tdengine::new(&config).expect("a configuration")
}

async fn prepared(stub: &TaosStub, timeout: Duration) -> (Tdengine, Arc<dyn TimeSeries>) {
    let tdengine = open(&stub.dsn(), timeout);
    tdengine.prepare().await.expect("prepared");
    let series = tdengine.series();
    (tdengine, series)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

fn rows(room: &str, seqs: std::ops::Range<u64>) -> [RoomRows; 1] {
    let at = now();
    [suite::room_rows(room, "S", seqs.map(|seq| (at + seq, seq)))]
}

fn newest(limit: usize) -> Select {
    Select::Last { span: 0..u64::MAX, limit, bytes: usize::MAX }
}

/// The error of a call. It comes, though the server may say nothing.
async fn error<T: std::fmt::Debug>(call: impl Future<Output = Result<T, StoreError>>) -> StoreError {
    let error = timeout(DEADLINE, call).await.expect("an end").expect_err("an error");
    assert!(!format!("{error:?}").contains(TaosStub::PASSWORD));
    error
}

/// Waits until rows can be appended and found.
async fn recovers(series: &Arc<dyn TimeSeries>) {
    eventually("rows are kept again", || async { series.append(&rows("recovers", 1..3)).await.is_ok() })
        .await;
    let found = series.rows(&RoomName::new("recovers").expect("a name"), &newest(1)).await.expect("found");
    assert_eq!(found[0].message.seq, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tdengine_passes_the_suite() {
    let stub = TaosStub::start().await;
    let (tdengine, series) = prepared(&stub, LONG).await;
    suite::run(&*series).await;
    println!(
        "the suite ran on the protocol stub: {:?}, {} rows",
        tdengine.pool_status(),
        stub.kept("tick_data")
    );

    // Nothing from outside is part of SQL.
    let statements = stub.statements();
    for text in suite::HOSTILE {
        let word = &text[..8];
        assert!(statements.iter().all(|sql| !sql.contains(word)), "{word}");
        let sent = stub.rows("tick_data");
        let bound = |cell: &Cell| matches!(cell, Cell::VarChar(sent) if sent == text);
        assert!(sent.iter().any(|row| row.cells.iter().any(bound)), "{word} was bound");
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b" _(),.?<>=`'".contains(&b);
    for sql in &statements {
        assert!(sql.bytes().all(plain), "{sql}");
        assert!(!sql.contains(TaosStub::PASSWORD));
    }
    // Prices and volumes are DOUBLE.
    for (table, figures) in [("tick_data", 6..12), ("minute_kline", 1..7), ("daily_kline", 1..7)] {
        let sent = stub.rows(table);
        assert!(!sent.is_empty());
        for row in sent {
            assert!(
                row.cells[figures.clone()].iter().all(|cell| matches!(cell, Cell::Double(_) | Cell::Null))
            );
        }
    }
    assert!(stub.rows("tick_data").iter().any(|row| row.cells[6] == Cell::Double(f64::MAX)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_tdengine_passes_the_suite() {
    let Ok(dsn) = std::env::var("TICKMESH_TEST_TDENGINE") else {
        println!("no TICKMESH_TEST_TDENGINE: no real server was asked");
        return;
    };
    let database = format!("tickmesh_test_{}", now());
    let tdengine = open(&format!("{}/{database}", dsn.trim_end_matches('/')), Duration::from_secs(30));
    tdengine.prepare().await.expect("prepared");
    tdengine.prepare().await.expect("prepared again");
    suite::run(&*tdengine.series()).await;
    println!("the suite ran on a real server, in {database}");
}

#[tokio::test]
async fn on_a_runtime_of_one_thread_it_works_too() {
    let stub = TaosStub::start().await;
    let (tdengine, series) = prepared(&stub, LONG).await;
    series.append(&rows("one", 1..100)).await.expect("appended");
    assert_eq!(series.rows(&RoomName::new("one").unwrap(), &newest(5)).await.expect("found").len(), 5);
    tdengine.ping().await.expect("it is there");
    let status = tdengine.pool_status();
    assert!(status.size >= 1 && status.available == status.size && status.max == 4, "{status:?}");
}

#[tokio::test]
async fn a_server_without_retention_per_table_is_prepared_too() {
    let stub = TaosStub::start().await;
    stub.without_table_keep();
    let (tdengine, series) = prepared(&stub, LONG).await;
    tdengine.prepare().await.expect("again");
    series.append(&rows("r", 1..2)).await.expect("appended");
    let statements = stub.statements();
    assert!(statements.iter().any(|sql| sql.contains("tickmesh.tick_data") && sql.ends_with("KEEP 30d")));
    assert!(
        statements.iter().any(|sql| sql.contains("tickmesh.tick_data") && sql.ends_with("VARCHAR(128))"))
    );
}

#[tokio::test]
async fn before_it_is_prepared_calls_fail_and_then_work() {
    let stub = TaosStub::start().await;
    let tdengine = open(&stub.dsn(), LONG);
    let series = tdengine.series();
    assert!(matches!(error(series.append(&rows("r", 1..2))).await, StoreError::Unavailable(_)));
    assert!(matches!(error(tdengine.ping()).await, StoreError::Unavailable(_)));
    tdengine.prepare().await.expect("prepared");
    recovers(&series).await;
    // And when a server loses everything.
    stub.forget();
    stub.cut();
    error(series.append(&rows("r", 1..2))).await;
    tdengine.prepare().await.expect("prepared");
    recovers(&series).await;
}

#[tokio::test]
async fn nothing_listens() {
    let address = free_address();
    let tdengine = open(&format!("taos+ws://root:{}@{address}/tickmesh", TaosStub::PASSWORD), LONG);
    let series = tdengine.series();
    for _ in 0..10 {
        assert!(matches!(error(tdengine.prepare()).await, StoreError::Unavailable(_)));
        assert!(matches!(error(tdengine.ping()).await, StoreError::Unavailable(_)));
        assert!(matches!(error(series.append(&rows("r", 1..2))).await, StoreError::Unavailable(_)));
    }
    let status = tdengine.pool_status();
    assert_eq!((status.size, status.waiting), (0, 0));
}

#[tokio::test]
async fn the_password_is_wrong() {
    let stub = TaosStub::start().await;
    let tdengine = open(&stub.dsn().replace(TaosStub::PASSWORD, "another"), LONG);
    let told = error(tdengine.prepare()).await;
    assert!(matches!(told, StoreError::Unavailable(_)) && !told.to_string().contains("another"));
}

#[tokio::test]
async fn it_accepts_and_says_nothing() {
    let stub = TaosStub::start().await;
    let (tdengine, series) = prepared(&stub, SHORT).await;
    series.append(&rows("r", 1..2)).await.expect("appended");
    stub.silence(true);
    // More calls than connections, at once: those that wait for a connection end in time too.
    let calls = (0..12).map(|_| async {
        assert_eq!(error(series.append(&rows("r", 1..4))).await, StoreError::Timeout);
        assert_eq!(error(series.rows(&RoomName::new("r").unwrap(), &newest(1))).await, StoreError::Timeout);
        assert_eq!(error(tdengine.ping()).await, StoreError::Timeout);
    });
    futures_util::future::join_all(calls).await;
    // Also with a patience in which the driver itself gives up.
    let patient = open(&stub.dsn(), 2 * SHORT);
    assert_eq!(patient.ping().await, Err(StoreError::Timeout));
    let status = tdengine.pool_status();
    assert_eq!((status.size, status.waiting), (0, 0), "none was kept");
    stub.silence(false);
    recovers(&series).await;
}

#[tokio::test]
async fn it_babbles() {
    // The driver unwraps what it hears.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
                while let Some(Ok(_)) = socket.next().await {
                    let _ = socket.send(Message::text("{\"code\": \"what\"}")).await;
                }
            });
        }
    });
    let tdengine = open(&format!("taos+ws://root:{}@{address}/tickmesh", TaosStub::PASSWORD), LONG);
    assert!(matches!(error(tdengine.ping()).await, StoreError::Unavailable(_)));
    assert!(matches!(error(tdengine.series().append(&rows("r", 1..2))).await, StoreError::Unavailable(_)));
    assert_eq!(tdengine.pool_status().size, 0);
}

#[tokio::test]
async fn it_is_slow() {
    let stub = TaosStub::start().await;
    let (_tdengine, series) = prepared(&stub, SHORT).await;
    stub.delay(SHORT / 4);
    assert_eq!(error(series.append(&rows("r", 1..2))).await, StoreError::Timeout, "its turns add up");
    stub.delay(Duration::from_millis(5));
    recovers(&series).await;
}

#[tokio::test]
async fn connections_break_in_the_middle() {
    let stub = TaosStub::start().await;
    let (_tdengine, series) = prepared(&stub, LONG).await;
    let room = RoomName::new("r").unwrap();
    series.append(&rows("r", 1..3)).await.expect("appended");
    for action in ["prepare", "set_tags", "bind", "exec"] {
        stub.cut_at(action);
        let told = error(series.append(&rows("r", 3..9))).await;
        assert_eq!(told, StoreError::Unavailable("the connection ended".into()), "{action}: told at once");
        let position = series.position(&room).await.expect("asked").expect("one");
        assert_eq!(position.seq, 2, "{action}: not ahead of the rows");
        recovers(&series).await;
    }
    for action in ["binary_query", "fetch"] {
        stub.cut_at(action);
        let told = error(series.rows(&room, &newest(9))).await;
        assert_eq!(told, StoreError::Unavailable("the connection ended".into()), "{action}: told at once");
        assert_eq!(series.rows(&room, &newest(9)).await.expect("found").len(), 2);
    }
    // Those that broke while they were idle cost at most the call that meets the end.
    stub.cut();
    let _ = series.rows(&room, &newest(9)).await;
    assert_eq!(series.rows(&room, &newest(9)).await.expect("found").len(), 2);
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_no_broken_connection() {
    let stub = TaosStub::start().await;
    let (_tdengine, series) = prepared(&stub, LONG).await;
    let room = RoomName::new("r").unwrap();
    series.append(&rows("r", 1..3)).await.expect("appended");
    stub.delay(Duration::from_millis(20));
    for wait in 1..40 {
        let _ = timeout(Duration::from_millis(wait * 3), series.append(&rows("r", 1..3))).await;
        let _ = timeout(Duration::from_millis(wait), series.rows(&room, &newest(9))).await;
    }
    stub.delay(Duration::ZERO);
    assert_eq!(series.rows(&room, &newest(1)).await.expect("found")[0].message.seq, 2);
    recovers(&series).await;
}

#[tokio::test]
async fn the_server_says_no() {
    let stub = TaosStub::start().await;
    let (tdengine, series) = prepared(&stub, LONG).await;
    stub.fail(Some((0x2207, "No disk space available")));
    let told = error(series.append(&rows("r", 1..3))).await;
    assert_eq!(told, StoreError::Unavailable("error 0x2207".into()));
    let span = BarQuery {
        symbol: Symbol::new("S").unwrap(),
        timeframe: Timeframe::Kept(Period::Minute),
        span: 0..u64::MAX,
        limit: 1,
        newest: true,
    };
    assert!(matches!(error(series.bars(&span)).await, StoreError::Unavailable(_)));
    assert!(matches!(
        error(series.put_bars(&[suite::bar("S", Period::Day, now(), 1)])).await,
        StoreError::Unavailable(_)
    ));
    tdengine.ping().await.expect("it is there all the same");
    stub.fail(None);
    recovers(&series).await;
}

#[tokio::test]
async fn tables_of_another_shape_are_no_fault_of_the_rows() {
    let stub = TaosStub::start().await;
    let (_tdengine, series) = prepared(&stub, LONG).await;
    for (code, text) in
        [(0x2602, "Invalid column name"), (0x2605, "Invalid value type"), (0x2600, "syntax error")]
    {
        stub.fail(Some((code, text)));
        let told = error(series.append(&rows("r", 1..3))).await;
        assert!(matches!(told, StoreError::Unavailable(_)), "{code:#06x}: they can be kept another time");
        let told = error(series.rows(&RoomName::new("r").unwrap(), &newest(9))).await;
        assert!(matches!(told, StoreError::Unavailable(_)), "{code:#06x}");
    }
    stub.fail(Some((0x2653, "Value is too long for column/tag")));
    assert!(matches!(error(series.append(&rows("r", 1..3))).await, StoreError::Refused(_)));
    stub.fail(None);
    recovers(&series).await;
}

/// Slow: questions have to run out until their breaker opens.
#[tokio::test]
async fn slow_questions_of_users_do_not_hold_up_who_writes() {
    let mut stub = TaosStub::start().await;
    let mut config = Config::node_defaults();
    config.tdengine.dsn = Secret::new(stub.dsn());
    config.tdengine.timeout_ms = SHORT.as_millis() as u64;
    config.tdengine.pool_max = 4;
    config.stores.breaker_open_ms = 100;
    let stores = Stores::open(&config, "n").expect("stores");
    let (writes, reads) = (stores.series.clone().unwrap(), stores.series_reads.clone().unwrap());
    let are_up = || async { writes.health().is_up() && reads.health().is_up() };
    eventually("it is prepared", are_up).await;
    let room = RoomName::new("r").unwrap();
    let first = rows("r", 1..3);
    writes.call(|series| series.append(&first)).await.expect("appended");
    let select = newest(9);
    let ask = || reads.call(|series| series.rows(&room, &select));
    assert_eq!(ask().await.expect("found").len(), 2);

    stub.slow(Some(("ORDER BY ts DESC", Duration::from_secs(60))));
    let asking = async {
        while reads.health().opened() == 0 {
            for answer in futures_util::future::join_all((0..12).map(|_| ask())).await {
                assert!(matches!(
                    answer,
                    Err(StoreError::Timeout | StoreError::Busy | StoreError::Unavailable(_))
                ));
            }
        }
    };
    let writing = async {
        for seq in 3.. {
            let append = rows("r", seq..seq + 1);
            writes.call(|series| series.append(&append)).await.expect("written all the while");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, async {
        tokio::select! {
            () = asking => {}
            () = writing => {}
        }
    })
    .await
    .expect("the breaker of those who read opens");
    assert_eq!((writes.health().opened(), writes.health().calls()[1]), (0, 0), "and of those who write not");
    stub.slow(None);
    eventually("it answers again", || async { ask().await.is_ok() }).await;

    // Nobody asks anything, and it goes away.
    eventually("it is there", are_up).await;
    stub.stop().await;
    eventually("that is noticed", || async { !writes.health().is_up() && !reads.health().is_up() }).await;
    stub.restart().await;
    eventually("and that it is back", are_up).await;
}

#[tokio::test]
async fn what_can_never_be_kept_is_refused() {
    let stub = TaosStub::start().await;
    let (_tdengine, series) = prepared(&stub, LONG).await;
    let old = now() - 3_651 * 24 * 3_600_000;
    for at in [0, old, 31_556_995_200_001, u64::MAX] {
        let told = error(series.append(&[suite::room_rows("r", "S", [(now(), 1), (at, 2)])])).await;
        assert_eq!(told, StoreError::Refused("a row's time is outside of what is kept".into()));
    }
    let mut long = suite::room_rows("r", "S", [(now(), 1)]);
    long.exchange = "X".repeat(33);
    assert!(matches!(error(series.append(&[long])).await, StoreError::Refused(_)));
    // The rest of the rows can still be kept.
    recovers(&series).await;
}

#[tokio::test]
async fn a_restart_in_between_loses_nothing() {
    let mut stub = TaosStub::start().await;
    let (_tdengine, series) = prepared(&stub, LONG).await;
    let room = RoomName::new("r").unwrap();
    for round in 0..5u64 {
        let seqs = round * 100 + 1..round * 100 + 101;
        series.append(&rows("r", seqs.clone())).await.expect("appended");
        stub.stop().await;
        let told = error(series.append(&rows("r", seqs.clone()))).await;
        assert!(matches!(told, StoreError::Timeout | StoreError::Unavailable(_)));
        assert!(matches!(error(series.position(&room)).await, StoreError::Unavailable(_)), "nobody is there");
        stub.restart().await;
        assert_eq!(series.position(&room).await.expect("asked").expect("one").seq, seqs.end - 1);
        let all = Select::Seqs { seqs: 1..u64::MAX, from: 0 };
        let found: Vec<u64> =
            series.rows(&room, &all).await.expect("found").iter().map(|row| row.message.seq).collect();
        assert_eq!(found, (1..seqs.end).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn only_names_of_tables_are_made_of_what_came_from_outside() {
    let stub = TaosStub::start().await;
    let (_tdengine, series) = prepared(&stub, LONG).await;
    series.append(&[suite::room_rows("A.b:C-d_e", "Sym.B:1", [(now(), 1)])]).await.expect("appended");
    let sent = stub.rows("tick_data");
    assert_eq!(sent[0].table, "t__41_2eb_3a_43_2dd_5fe");
    assert_eq!(sent[0].tags, ["Sym.B:1", "X", "A.b:C-d_e"]);
    assert!(stub.connections() > 0 && stub.statements().iter().all(|sql| !sql.contains("Sym")));
}
