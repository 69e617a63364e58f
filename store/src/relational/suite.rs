//! What every implementation of the ports for users' data must do. The checks panic where a guarantee is broken.
//!
//! Each takes a store for itself: nothing is in it, and nobody else uses it.

mod alerts;
mod audit;
mod credentials;
mod hits;
mod watchlists;

use tickmesh_protocol::market::{AlertSpec, Op, Symbol};
use tickmesh_protocol::position::{Epoch, Position};

use super::{Alert, AlertState, Hit, Relational};
use crate::StoreError;

pub use alerts::alerts;
pub use audit::audit;
pub use credentials::credentials;
pub use hits::hits;
pub use watchlists::watchlists;

/// Runs every check.
///
/// # Panics
/// When a guarantee is broken.
pub async fn run(store: &Relational) {
    credentials(&*store.credentials).await;
    watchlists(&*store.watchlists).await;
    alerts(&*store.alerts).await;
    hits(store).await;
    audit(&*store.audit).await;
}

/// UTC milliseconds.
const NOW: u64 = 1_790_000_000_000;
/// Calls that meet.
const MANY: usize = 24;

/// Texts that break what is careless with them. They may be refused, but must not do anything else than texts do.
fn hostile() -> Vec<String> {
    vec![
        "'; DROP TABLE alerts; --".into(),
        "\"; DELETE FROM api_keys WHERE \"\" = \"".into(),
        "$1 %s {} \\ \\' \\0 \\u0000 %00 `".into(),
        "{\"a\":[1,2,\"NULL\"]}, NULL, {x,y}".into(),
        "名字 🦀 \u{202e}olleh\u{202c} e\u{301} \u{fffd}".into(),
        " \t\r\n\u{7f}\u{1} ".into(),
        "x".repeat(10_240),
        "ü".repeat(5_120),
        "a\0b".into(),
        "\0".into(),
        String::new(),
    ]
}

/// Finite numbers at the edges; the store has to give back the same bits.
const EXTREMES: [f64; 8] = [1e300, -1e300, -0.0, 0.0, 5e-324, f64::MAX, f64::MIN_POSITIVE, 0.1 + 0.2];

/// Whether it was done; what else is allowed is to be refused.
fn done_or_refused<T>(answer: Result<T, StoreError>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(StoreError::Refused(_)) => None,
        Err(error) => panic!("neither done nor refused: {error}"),
    }
}

fn symbol(name: &str) -> Symbol {
    Symbol::new(name).expect("a symbol")
}

fn spec(name: &str, once: bool) -> AlertSpec {
    AlertSpec { symbol: symbol(name), field: "price".into(), op: Op::Crosses, value: 10.5, once }
}

fn position(epoch: &str, seq: u64) -> Position {
    Position { epoch: Epoch::new(epoch), seq }
}

fn state(side: i8, armed: bool, at: Position) -> AlertState {
    AlertState { side, armed, at: Some(at) }
}

/// A hit of this alert, and the state after it.
fn hit(alert: &Alert, at: Position) -> (Hit, AlertState) {
    let hit = Hit {
        hit_id: 0,
        alert_id: alert.id,
        user_id: alert.user_id.clone(),
        spec: alert.spec.clone(),
        reached: 10.75,
        position: at.clone(),
        at: NOW,
    };
    (hit, state(1, false, at))
}
