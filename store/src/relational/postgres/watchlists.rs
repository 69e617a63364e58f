//! Symbols that users saved.

use async_trait::async_trait;
use deadpool_postgres::Transaction;
use tickmesh_protocol::market::Symbol;

use super::Postgres;
use super::calls::{Failed, Repeat, Work, bigint, rows};
use super::error::damaged;
use crate::StoreError;
use crate::relational::{Watchlists, rules};

const LIST: &str = "SELECT symbol FROM watchlist_entries WHERE user_id = $1 ORDER BY id";
/// Additions to one list take turns: otherwise two could see the last free place at the same time. The first number keeps
/// these locks apart from others; two users with the same hash only wait for each other.
const LOCK: &str = "SELECT pg_advisory_xact_lock(1, hashtext($1))";
const ADD: &str = "INSERT INTO watchlist_entries (user_id, symbol) SELECT $1, $2 \
    WHERE (SELECT count(*) FROM watchlist_entries WHERE user_id = $1) < $3 ON CONFLICT (user_id, symbol) DO NOTHING";
const HAS: &str = "SELECT 1 FROM watchlist_entries WHERE user_id = $1 AND symbol = $2";
const REMOVE: &str = "DELETE FROM watchlist_entries WHERE user_id = $1 AND symbol = $2 RETURNING id";

struct Add<'a> {
    user_id: &'a str,
    symbol: &'a str,
    most: i64,
}

impl Work for Add<'_> {
    type Answer = bool;
    const REPEAT: Repeat = Repeat::Yes;

    async fn run(&self, transaction: &Transaction<'_>) -> Result<bool, Failed> {
        rows(transaction, LOCK, &[&self.user_id]).await?;
        rows(transaction, ADD, &[&self.user_id, &self.symbol, &self.most]).await?;
        Ok(!rows(transaction, HAS, &[&self.user_id, &self.symbol]).await?.is_empty())
    }
}

#[async_trait]
impl Watchlists for Postgres {
    async fn list(&self, user_id: &str) -> Result<Vec<Symbol>, StoreError> {
        let rows = self.query(Repeat::Yes, LIST, &[&user_id]).await?;
        rows.iter().map(|row| symbol(row.try_get(0).map_err(|error| damaged(&error))?)).collect()
    }

    async fn add(&self, user_id: &str, symbol: &Symbol, most: usize) -> Result<bool, StoreError> {
        rules::user(user_id)?;
        self.transact(&Add { user_id, symbol: symbol.as_str(), most: bigint(most as u64) }).await
    }

    async fn remove(&self, user_id: &str, symbol: &Symbol) -> Result<bool, StoreError> {
        let removed = self.query(Repeat::No, REMOVE, &[&user_id, &symbol.as_str()]).await?;
        Ok(!removed.is_empty())
    }
}

/// A symbol as it is kept.
pub(super) fn symbol(name: &str) -> Result<Symbol, StoreError> {
    Symbol::new(name).map_err(|_| StoreError::Damaged("a symbol".into()))
}
