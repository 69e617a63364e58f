//! Brings the tables of a database up to this version.
//!
//! Nodes that start at the same time do it one after the other, under a lock that ends with the connection; all but the
//! first then find nothing to do. All that is missing is applied in one transaction: together or not at all.

use std::error::Error as _;
use std::time::Duration;

use refinery_core::error::Kind;
use refinery_core::{Migration, Runner};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::Client;

use super::Postgres;
use super::error::store_error;
use crate::StoreError;

/// Longest time for all of it, waiting for the others included.
const PATIENCE: Duration = Duration::from_secs(60);
/// Key of the advisory lock: "tickmesh" in ASCII.
const LOCK: i64 = 0x7469_636b_6d65_7368;

/// All migrations: the name of each file, which begins with its version, and its text. One that was published never changes.
const MIGRATIONS: [(&str, &str); 1] =
    [("V1__users_data", include_str!("../../../migrations/V1__users_data.sql"))];

/// Ends the task of a connection, and with it the connection.
struct Ending(JoinHandle<()>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Postgres {
    /// Brings the tables up to this version. It changes nothing where they are; nodes may do it at the same time. It takes
    /// a minute at most.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the tables are of a newer version, or not those of any version of this program;
    /// otherwise when the database does not answer, or refuses.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        timeout(PATIENCE, self.migrate_in_time()).await.unwrap_or(Err(StoreError::Timeout))
    }

    async fn migrate_in_time(&self) -> Result<(), StoreError> {
        // A connection of its own: the others end statements too soon for this.
        let connected = timeout(self.timeout, self.connector.connect_patient(PATIENCE)).await;
        let (mut client, task) =
            connected.map_err(|_| StoreError::Timeout)?.map_err(|error| store_error(&error))?;
        let _ending = Ending(task);
        let locked = client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await;
        locked.map_err(|error| store_error(&error))?;
        let migrated = run(&mut client).await;
        // Without an answer the lock still ends soon, with the connection.
        let unlocked = client.execute("SELECT pg_advisory_unlock($1)", &[&LOCK]).await;
        if let Err(error) = unlocked {
            tracing::debug!(error = %store_error(&error), "the lock of the migrations was not given back");
        }
        migrated
    }
}

async fn run(client: &mut Client) -> Result<(), StoreError> {
    let migrations: Result<Vec<_>, _> =
        MIGRATIONS.iter().map(|(name, sql)| Migration::unapplied(name, sql)).collect();
    let migrations = migrations.map_err(|error| StoreError::Refused(error.to_string()))?;
    let runner = Runner::new(&migrations).set_grouped(true);
    let ours = runner.get_migrations().iter().map(Migration::version).max().unwrap_or_default();
    match runner.run_async(client).await {
        Ok(report) => {
            let applied = report.applied_migrations().len();
            if applied > 0 {
                tracing::info!(applied, version = ours, "the tables in postgres are up to date");
            }
            Ok(())
        }
        Err(error) => Err(match error.kind() {
            Kind::MissingVersion(theirs) if theirs.version() > ours => StoreError::Refused(format!(
                "the schema of the database is newer, version {}, than the {ours} of this program",
                theirs.version()
            )),
            Kind::Connection(..) => {
                let cause = error.kind().source().and_then(|cause| cause.downcast_ref());
                cause.map_or_else(|| StoreError::Unavailable("the migrations failed".into()), store_error)
            }
            other => StoreError::Refused(format!("the schema of the database is not ours: {other}")),
        }),
    }
}
