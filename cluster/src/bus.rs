//! Letters between the processes of a cluster.
//!
//! They are for what heals by itself: hints, counts that are told again, questions that may stay unanswered. Messages of
//! rooms never travel here.

pub mod memory;
pub mod redis;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::broker::BrokerError;

/// To whom a letter goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To<'a> {
    /// Everybody: about members.
    Members,
    /// Everybody: about subscriptions.
    Subscriptions,
    /// Everybody: questions and notices.
    Everybody,
    /// One member by its id.
    Member(&'a str),
}

/// Sends letters.
///
/// # Guarantees
///
/// * **At most once.** A letter may be lost, also while it was accepted; it never comes twice.
/// * **Order.** Letters of one sender under one `To` come in the order in which they were sent.
/// * **To all.** The sender gets its own letters, if they are to everybody.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Sends a text.
    async fn send(&self, to: To<'_>, text: &str) -> Result<(), BrokerError>;
}

/// Letters that wait for their reader. What does not fit is lost, as the guarantees allow.
pub type Mail = mpsc::Receiver<Vec<u8>>;

/// Letters that may wait.
pub(crate) const MAIL: usize = 4_096;
