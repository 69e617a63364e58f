//! What every [`Watchlists`] must do.

use futures_util::future::join_all;

use super::{MANY, done_or_refused, hostile, symbol};
use crate::relational::Watchlists;

/// Runs every check.
///
/// # Panics
/// When a guarantee is broken.
pub async fn watchlists(store: &dyn Watchlists) {
    let list = async |user: &str| {
        let symbols = store.list(user).await.expect("listed");
        symbols.iter().map(|symbol| symbol.as_str().to_owned()).collect::<Vec<_>>()
    };
    let add =
        async |user: &str, name: &str, most| store.add(user, &symbol(name), most).await.expect("answered");
    let remove = async |user: &str, name: &str| store.remove(user, &symbol(name)).await.expect("answered");

    assert!(list("u").await.is_empty());
    assert!(!add("u", "X", 0).await, "none fits");
    for name in ["C", "a", "B"] {
        assert!(add("u", name, 3).await);
    }
    assert!(add("u", "C", 3).await, "it is there");
    assert!(add("u", "a", 0).await, "it is there, whatever fits");
    assert!(!add("u", "D", 3).await, "it is full");
    assert_eq!(list("u").await, ["C", "a", "B"], "in the order in which they came");
    assert!(add("u", "D", 4).await, "more fit now");
    assert!(remove("u", "a").await);
    assert!(!remove("u", "a").await, "gone already");
    assert!(!remove("v", "C").await, "another's list");
    assert!(!add("u", "E", 3).await, "it is still full");
    assert!(add("u", "a", 9).await);
    assert_eq!(list("u").await, ["C", "B", "D", "a"], "who comes again comes last");
    assert!(list("v").await.is_empty());

    meeting(store).await;
    hostile_texts(store).await;
}

/// Where calls meet, a list does not become too long, and has each symbol once.
async fn meeting(store: &dyn Watchlists) {
    let most = MANY / 3;
    let symbols: Vec<_> = (0..MANY).map(|i| symbol(&format!("S{i}"))).collect();
    let added = join_all(symbols.iter().map(|symbol| store.add("many", symbol, most))).await;
    let added: Vec<_> = added.into_iter().map(|answer| answer.expect("answered")).collect();
    assert_eq!(added.iter().filter(|added| **added).count(), most, "as many as fit");
    let listed = store.list("many").await.expect("listed");
    assert_eq!(listed.len(), most);
    for (symbol, added) in symbols.iter().zip(added) {
        assert_eq!(listed.contains(symbol), added, "{symbol}");
    }

    let same = symbol("SAME");
    let added = join_all((0..MANY).map(|_| store.add("same", &same, 1))).await;
    assert!(added.into_iter().all(|answer| answer.expect("answered")), "it is there for all");
    assert_eq!(store.list("same").await.expect("listed"), std::slice::from_ref(&same));
    let removed = join_all((0..MANY).map(|_| store.remove("same", &same))).await;
    let removed = removed.into_iter().filter(|answer| *answer.as_ref().expect("answered")).count();
    assert_eq!(removed, 1, "one removed it");
}

async fn hostile_texts(store: &dyn Watchlists) {
    let x = symbol("X");
    for user in hostile() {
        if done_or_refused(store.add(&user, &x, 1).await) == Some(true) {
            assert_eq!(store.list(&user).await.expect("listed"), std::slice::from_ref(&x), "{user:?}");
            assert!(store.remove(&user, &x).await.expect("answered"));
        }
        let listed = done_or_refused(store.list(&user).await).unwrap_or_default();
        assert!(listed.is_empty(), "{user:?}");
        assert!(!done_or_refused(store.remove(&user, &x).await).unwrap_or_default(), "{user:?}");
    }
}
