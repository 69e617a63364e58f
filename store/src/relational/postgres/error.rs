//! What an error of the driver means. Texts have the SQLSTATE and never what the server says, which may quote data.

use std::error::Error as _;

use deadpool_postgres::PoolError;
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::StoreError;

/// What an error means for another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The connection is gone. Whether the statement was done is known only if it was not sent.
    Gone,
    /// The connection is good for nothing though it is there, and the statement was not done: its plan is out of date, or
    /// the server has become a replica.
    Stale,
    /// Two transactions met, and this one was rolled back.
    Conflict,
    /// Anything else.
    Other,
}

impl Trouble {
    pub(super) fn of(error: &Error) -> Self {
        let Some(state) = error.code() else {
            // The server's silence or noise: after such errors the driver has closed the connection.
            return if error.is_closed() || is_io(error) { Self::Gone } else { Self::Other };
        };
        if [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        ]
        .contains(state)
        {
            Self::Gone
        } else if [
            SqlState::FEATURE_NOT_SUPPORTED,
            SqlState::INVALID_SQL_STATEMENT_NAME,
            SqlState::READ_ONLY_SQL_TRANSACTION,
        ]
        .contains(state)
        {
            Self::Stale
        } else if [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(state) {
            Self::Conflict
        } else {
            Self::Other
        }
    }
}

fn is_io(error: &Error) -> bool {
    error.source().is_some_and(|source| source.is::<std::io::Error>())
}

/// For the callers of the ports.
pub(super) fn store_error(error: &Error) -> StoreError {
    let Some(state) = error.code() else {
        // Beside the server's own errors, the cause is one of the network or of TLS.
        let mut text = error.to_string();
        if let Some(source) = error.source() {
            text = format!("{text}: {source}");
        }
        return StoreError::Unavailable(text);
    };
    let code = state.code();
    if [SqlState::QUERY_CANCELED, SqlState::LOCK_NOT_AVAILABLE].contains(state) {
        StoreError::Timeout
    } else if ["22", "23", "54"].iter().any(|class| code.starts_with(class)) {
        StoreError::Refused(format!("the data is against the rules of the database (SQLSTATE {code})"))
    } else {
        StoreError::Unavailable(format!("SQLSTATE {code}"))
    }
}

/// When a column is not what it has to be.
pub(super) fn damaged(error: &Error) -> StoreError {
    StoreError::Damaged(error.to_string())
}

pub(super) fn pool_error(error: PoolError) -> StoreError {
    match error {
        PoolError::Timeout(_) => StoreError::Timeout,
        PoolError::Backend(error) => store_error(&error),
        other => StoreError::Unavailable(other.to_string()),
    }
}
