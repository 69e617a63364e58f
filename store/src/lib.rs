//! What outlives the logs: users' data and the ticks and bars of the market, each behind small ports.
//!
//! | port | memory | real |
//! |---|---|---|
//! | [`series::TimeSeries`]: ticks and bars | [`series::memory`] | `series::tdengine`, on TDengine |
//! | [`relational`]: keys, watchlists, alerts, hits, audit | [`relational::memory`] | [`relational::postgres`], on PostgreSQL |
//!
//! [`Stores`] are those that the configuration names, each behind a circuit breaker ([`guard`]). Of the time series the
//! recorder and those who read have one each.
//!
//! The guarantees stand in the docs of the traits, and one suite for each runs on every implementation. This crate must not
//! know sessions, rooms' logs or who may do what.

mod check;
pub mod guard;
mod open;
pub mod relational;
pub mod series;

pub use check::check;
pub use open::{BytesGauge, PoolGauge, PoolStatus, Stores, StoresError};
use tickmesh_protocol::error::{ErrorCode, Failure};

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or refuses. Whether a write was kept is not known.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// No answer came in time; a write may have been kept.
    #[error("the store did not answer in time")]
    Timeout,
    /// What it holds cannot be understood.
    #[error("the store holds what cannot be understood: {0}")]
    Damaged(String),
    /// Too many ask it at once: it was not asked.
    #[error("too many calls wait for the store")]
    Busy,
    /// What was asked is against the store's own rules, so trying again does not help.
    #[error("the store refuses: {0}")]
    Refused(String),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        // Details of the inside are for the log.
        let text = match &error {
            StoreError::Unavailable(_) | StoreError::Damaged(_) => "the store is unavailable",
            StoreError::Timeout => "the store did not answer in time",
            StoreError::Busy => "too many ask the store at once",
            StoreError::Refused(text) => return Self::new(ErrorCode::InvalidParameters, text.clone()),
        };
        Self::new(ErrorCode::ServiceUnavailable, text)
    }
}
