use tickmesh_cluster::config::Secret;

use super::*;

fn config(dsn: &str) -> TdengineConfig {
    TdengineConfig {
        dsn: Secret::new(dsn),
        pool_max: 4,
        timeout_ms: 1_000,
        tick_days: 30,
        minute_days: 365,
        daily_days: 3_650,
        required: false,
    }
}

fn setup(dsn: &str) -> Result<String, TdengineSetupError> {
    Tdengine::new(&config(dsn)).map(|tdengine| tdengine.shared.database.clone())
}

#[test]
fn a_dsn_names_its_database_and_errors_name_no_password() {
    assert_eq!(setup("taos+ws://root:pw@localhost:6041").unwrap(), "tickmesh");
    assert_eq!(setup("taos+ws://root:pw@localhost:6041/").unwrap(), "tickmesh");
    assert_eq!(setup("ws://root:pw@localhost:6041/prices_1").unwrap(), "prices_1");
    for (dsn, error) in [
        ("taos+ws://root:hunter2@localhost:6041/Prices", TdengineSetupError::Database),
        ("taos+ws://root:hunter2@localhost:6041/a%60b", TdengineSetupError::Database),
        ("taos+wss://root:hunter2@localhost:6041/a", TdengineSetupError::Scheme),
        ("wss://root:hunter2@localhost:6041/a", TdengineSetupError::Scheme),
        ("postgres://root:hunter2@localhost/a", TdengineSetupError::Scheme),
        ("hunter2", TdengineSetupError::Dsn),
    ] {
        let told = setup(dsn).unwrap_err();
        assert_eq!(told, error, "{dsn}");
        assert!(!told.to_string().contains("hunter2"));
    }
}

#[test]
fn calls_may_be_spawned() {
    fn is_send<T: Send>(_: T) {}
    let tdengine = Tdengine::new(&config("ws://localhost")).unwrap();
    is_send(tdengine.prepare());
    is_send(tdengine.ping());
}
