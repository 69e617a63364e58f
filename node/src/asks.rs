//! What is asked of market data and of what is kept for users, by sessions and over HTTP.
//!
//! Who may ask was checked before. A store that is away gives an error that says so, and holds up nobody else. Rows of market
//! data are many: they are fetched and written on a thread of their own ([`crate::reads`]).

mod rows;

use serde_json::json;
use tickmesh_protocol::error::Failure;
use tickmesh_protocol::market::{Ask, Symbol, room_of};
use tickmesh_protocol::message::Replay;
use tickmesh_store::guard::Guarded;
use tickmesh_store::relational::{AlertState, Relational};

use crate::clock;
use crate::worker::Shared;

/// Hits that are told at once.
const MOST_HITS: usize = 100;

impl Shared {
    /// Answers a question with JSON text.
    pub(crate) async fn answer(&self, user_id: &str, ask: Ask) -> Result<String, Failure> {
        let value = match ask {
            Ask::MarketData(query) => {
                let room = room_of(&self.policy.market_prefix, &query.symbol)?;
                let stores = self.stores.clone();
                let answer = async move { rows::market_data(&stores, &room, &query).await };
                return self.reads.run(answer).await;
            }
            Ask::Watchlist => {
                let symbols = self.users()?.call(|users| users.watchlists.list(user_id)).await?;
                json!({ "symbols": symbols })
            }
            Ask::Watch(symbol) => {
                let most = self.max_watchlist;
                let add = self.users()?.call(|users| users.watchlists.add(user_id, &symbol, most));
                if !add.await? {
                    return Err(too_many("the watchlist is full", most));
                }
                json!({ "symbol": symbol, "status": "added" })
            }
            Ask::Unwatch(symbol) => {
                let removed = self.users()?.call(|users| users.watchlists.remove(user_id, &symbol)).await?;
                json!({ "symbol": symbol, "status": if removed { "removed" } else { "absent" } })
            }
            Ask::Alerts => {
                let users = self.users()?;
                let alerts = users.call(|users| users.alerts.of_user(user_id)).await?;
                let hits = users.call(|users| users.hits.pending(user_id, MOST_HITS)).await?;
                json!({ "alerts": alerts, "hits": hits })
            }
            Ask::CreateAlert(spec) => {
                let (users, now, most) = (self.users()?, clock::now().utc, self.max_alerts);
                let state = self.beginning(&spec.symbol).await?;
                let create = users.call(|users| users.alerts.create(user_id, &spec, &state, now, most));
                let alert = create.await?.ok_or_else(|| too_many("too many alerts", most))?;
                self.peers.alerts_changed(spec.symbol).await;
                json!(alert)
            }
            Ask::DeleteAlert(id) => {
                let users = self.users()?;
                let alerts = users.call(|users| users.alerts.of_user(user_id)).await?;
                let known = alerts.into_iter().find(|alert| alert.id == id);
                if !users.call(|users| users.alerts.delete(user_id, id)).await? {
                    return Err(Failure::parameters("there is no such alert"));
                }
                if let Some(alert) = known {
                    self.peers.alerts_changed(alert.spec.symbol).await;
                }
                json!({ "id": id, "status": "deleted" })
            }
            Ask::AcknowledgeHit(hit_id) => {
                let now = clock::now().utc;
                if !self.users()?.call(|users| users.hits.acknowledge(user_id, hit_id, now)).await? {
                    return Err(Failure::parameters("there is no such hit to acknowledge"));
                }
                json!({ "hit_id": hit_id, "status": "acknowledged" })
            }
        };
        Ok(value.to_string())
    }

    /// How a new alert stands: it counts what is published from now on, and nothing that was before.
    async fn beginning(&self, symbol: &Symbol) -> Result<AlertState, Failure> {
        let room = room_of(&self.policy.market_prefix, symbol)?;
        let position = self.broker.history(&room, Replay::Nothing).await?.position;
        // A room that has no log yet has nothing that came before.
        let at = Some(position).filter(|at| at.seq > 0 && !at.epoch.as_str().is_empty());
        Ok(AlertState { side: 0, armed: true, at })
    }

    /// Hits of a user that are not acknowledged, as JSON text. None where that cannot be found out: they are told to the next
    /// connection.
    pub(crate) async fn missed(&self, user_id: &str) -> Vec<String> {
        let Ok(users) = self.users() else { return Vec::new() };
        let hits = users.call(|users| users.hits.pending(user_id, MOST_HITS)).await;
        hits.unwrap_or_default().iter().filter_map(|hit| serde_json::to_string(hit).ok()).collect()
    }

    pub(crate) fn users(&self) -> Result<&Guarded<Relational>, Failure> {
        self.stores.users.as_deref().ok_or_else(|| Failure::unavailable("no relational store is configured"))
    }
}

fn too_many(what: &str, most: usize) -> Failure {
    Failure::parameters(format!("{what}: at most {most}")).with_details(json!({ "max": most }))
}
