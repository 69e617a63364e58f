//! Whether stores can be opened as they are configured, for who only wants to know.

use tickmesh_cluster::config::{Config, PostgresConfig};

use crate::StoresError;
use crate::relational::postgres::Postgres;
#[cfg(feature = "tdengine")]
use crate::series::tdengine::Tdengine;

/// Looks at `[postgres]` and `[tdengine]` as [`Stores::open`](crate::Stores::open) does, but connects to nothing and reads no
/// file: `postgres.tls_ca` may be one of another machine.
///
/// # Errors
/// With what a node would say.
pub fn check(config: &Config) -> Result<(), StoresError> {
    if !config.postgres.url.expose().is_empty() {
        Postgres::new(&PostgresConfig { tls_ca: None, ..config.postgres.clone() }, "check")?;
    }
    if !config.tdengine.dsn.expose().is_empty() {
        #[cfg(feature = "tdengine")]
        Tdengine::new(&config.tdengine)?;
        #[cfg(not(feature = "tdengine"))]
        return Err(StoresError::NoTdengine);
    }
    Ok(())
}
