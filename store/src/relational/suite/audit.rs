//! What every [`Audit`] must do.

use super::{NOW, hostile};
use crate::relational::{Audit, AuditEvent};

fn event(at: u64, user: &str, session: &str) -> AuditEvent {
    AuditEvent {
        at,
        event: "disconnected".into(),
        session_id: session.into(),
        user_id: user.into(),
        node_id: "n1".into(),
        remote: "[::1]:4711".into(),
        reason: "slow".into(),
    }
}

/// Runs every check.
///
/// # Panics
/// When a guarantee is broken.
pub async fn audit(store: &dyn Audit) {
    let list = async |user: Option<&str>, limit| store.list(user, limit).await.expect("listed");
    store.record(&[]).await.expect("recorded");
    assert!(list(None, 10).await.is_empty());
    // Batches of several nodes come in any order.
    let [a1, a2, b3, b4, a5] =
        [(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "a")].map(|(at, user)| event(NOW + at, user, "s"));
    store.record(&[b3.clone(), b4.clone(), a5.clone()]).await.expect("recorded");
    store.record(&[a1.clone(), a2.clone()]).await.expect("recorded");
    let all = [a5.clone(), b4.clone(), b3, a2.clone(), a1.clone()];
    assert_eq!(list(None, usize::MAX).await, all, "the newest first");
    assert_eq!(list(None, 2).await, all[..2]);
    assert_eq!(list(Some("a"), 10).await, [a5.clone(), a2.clone(), a1]);
    assert_eq!(list(Some("a"), 1).await, std::slice::from_ref(&a5));
    assert!(list(Some("c"), 10).await.is_empty());
    assert!(list(None, 0).await.is_empty());

    assert_eq!(store.prune(NOW + 4, 2).await, Ok(2), "no more than that");
    assert_eq!(list(None, 10).await, all[..3], "the oldest are gone");
    assert_eq!(store.prune(NOW + 4, 10).await, Ok(1), "those before");
    assert_eq!(store.prune(NOW + 4, 10).await, Ok(0));
    assert_eq!(list(None, 10).await, [a5, b4]);
    assert_eq!(store.prune(u64::MAX, usize::MAX).await, Ok(2));

    batches(store).await;
    hostile_texts(store).await;
}

async fn batches(store: &dyn Audit) {
    let batch: Vec<_> = (0..1_500).map(|i| event(NOW, "batch", &i.to_string())).collect();
    store.record(&batch).await.expect("recorded");
    let newest = store.list(Some("batch"), usize::MAX).await.expect("listed");
    assert!(newest.iter().eq(batch.iter().rev()), "of the same time, the last one first");
    // Who prunes at the same time shares the work.
    let (one, other) = tokio::join!(store.prune(NOW + 1, 500), store.prune(NOW + 1, 500));
    let pruned = one.expect("pruned") + other.expect("pruned");
    assert!((500..=1_000).contains(&pruned), "{pruned}");
    let left = store.prune(NOW + 1, usize::MAX).await.expect("pruned");
    assert_eq!(pruned + left, 1_500);
}

/// An event is kept whatever its texts are, and so are those in the same batch: what cannot be kept of a text is left out.
async fn hostile_texts(store: &dyn Audit) {
    for text in hostile() {
        let hostile = AuditEvent {
            at: NOW,
            event: text.clone(),
            session_id: text.clone(),
            user_id: text.clone(),
            node_id: text.clone(),
            remote: text.clone(),
            reason: text.clone(),
        };
        let plain = event(NOW + 1, "plain", "s");
        store.record(&[hostile.clone(), plain.clone()]).await.expect("recorded");
        let all = store.list(None, 10).await.expect("listed");
        assert_eq!(all.len(), 2, "{text:?}");
        assert_eq!(all[0], plain);
        if text.len() <= 1_000 && !text.contains('\0') {
            assert_eq!(all[1], hostile);
        }
        let of_user = store.list(Some(&text), 10).await.expect("listed");
        assert_eq!(of_user, all[1..], "it is found by the same name");
        assert_eq!(store.prune(NOW + 2, 10).await, Ok(2));
    }
    let beyond = event(u64::MAX, "u", "s");
    store.record(std::slice::from_ref(&beyond)).await.expect("recorded");
    assert_eq!(store.list(None, 10).await.expect("listed").len(), 1);
    assert_eq!(store.prune(NOW, 10).await, Ok(0));
}
