//! What every [`Hits`](crate::relational::Hits) must do.

use futures_util::future::join_all;

use super::{EXTREMES, MANY, NOW, done_or_refused, hit, hostile, position, spec, state};
use crate::relational::{ACKNOWLEDGED_MS, Alert, AlertState, Hit, Relational};

/// Runs every check.
///
/// # Panics
/// When a guarantee is broken.
pub async fn hits(store: &Relational) {
    lists(store).await;
    telling(store).await;
    once(store).await;
    batches(store).await;
    gone(store).await;
    meeting(store).await;
    hostile_values(store).await;
}

async fn alert(store: &Relational, user: &str, once: bool) -> Alert {
    let created =
        store.alerts.create(user, &spec("HIT", once), &AlertState::default(), NOW, usize::MAX).await;
    created.expect("answered").expect("created")
}

async fn fire(store: &Relational, hits: &[(Hit, AlertState)]) -> Vec<Hit> {
    store.hits.fire(hits).await.expect("fired")
}

async fn pending(store: &Relational, user: &str) -> Vec<Hit> {
    store.hits.pending(user, usize::MAX).await.expect("listed")
}

async fn read(store: &Relational, alert: &Alert) -> Alert {
    let all = store.alerts.of_user(&alert.user_id).await.expect("listed");
    all.into_iter().find(|one| one.id == alert.id).expect("it is there")
}

async fn lists(store: &Relational) {
    let one = alert(store, "h", false).await;
    assert!(fire(store, &[]).await.is_empty());
    assert!(pending(store, "h").await.is_empty());
    let mut all = Vec::new();
    for seq in 1..=4 {
        let first = hit(&one, position("e", seq));
        let fired = fire(store, std::slice::from_ref(&first)).await;
        assert_eq!(fired.len(), 1);
        assert_eq!(fired, [Hit { hit_id: fired[0].hit_id, ..first.0.clone() }]);
        assert_eq!(read(store, &one).await.state, first.1, "together with the state");
        assert!(fire(store, &[first]).await.is_empty(), "once");
        all.extend(fired);
    }
    assert!(all.is_sorted_by(|a, b| 0 < a.hit_id && a.hit_id < b.hit_id), "ids rise");
    assert_eq!(pending(store, "h").await, all, "the oldest first");
    assert_eq!(store.hits.pending("h", 2).await.as_deref(), Ok(&all[2..]), "the newest of them");
    assert_eq!(store.hits.pending("h", 0).await, Ok(Vec::new()));
    assert!(pending(store, "x").await.is_empty());

    let id = all[1].hit_id;
    assert_eq!(store.hits.acknowledge("x", id, NOW).await, Ok(false), "another's");
    assert_eq!(store.hits.acknowledge("h", id, NOW).await, Ok(true));
    assert_eq!(store.hits.acknowledge("h", id, NOW).await, Ok(false), "acknowledged already");
    assert_eq!(store.hits.acknowledge("h", u64::MAX, NOW).await, Ok(false), "never there");
    let acknowledged = all.remove(1);
    assert_eq!(pending(store, "h").await, all);
    assert!(fire(store, &[hit(&one, acknowledged.position)]).await.is_empty(), "it is not made again");
    let other_life = fire(store, &[hit(&one, position("e2", 2))]).await;
    assert_eq!(other_life.len(), 1, "another epoch is another position");

    // A hit that comes late is one, but does not turn the alert's state back.
    let newest = state(-1, true, position("e2", 9));
    store.alerts.keep(&[(one.id, newest.clone())]).await.expect("kept");
    assert_eq!(fire(store, &[hit(&one, position("e2", 8))]).await.len(), 1);
    assert_eq!(read(store, &one).await.state, newest);
}

async fn telling(store: &Relational) {
    let one = alert(store, "t", false).await;
    let untold = async || {
        let all = store.hits.untold(usize::MAX).await.expect("listed");
        all.into_iter().filter(|hit| hit.alert_id == one.id).collect::<Vec<_>>()
    };
    let hits: Vec<_> = (1..=3).map(|seq| hit(&one, position("e", seq))).collect();
    let fired = fire(store, &hits).await;
    assert_eq!(untold().await, fired, "the oldest first");
    assert_eq!(store.hits.untold(0).await, Ok(Vec::new()));
    store.hits.told(&[fired[0].hit_id, u64::MAX]).await.expect("marked");
    store.hits.told(&[]).await.expect("nothing to mark");
    assert_eq!(store.hits.acknowledge("t", fired[1].hit_id, NOW).await, Ok(true));
    assert_eq!(untold().await, fired[2..], "who has acknowledged it knows");
    assert_eq!(pending(store, "t").await.len(), 2, "told is not acknowledged");

    // Long after, what was acknowledged is forgotten, and can be made again.
    let later = NOW + ACKNOWLEDGED_MS;
    assert_eq!(store.hits.acknowledge("t", fired[2].hit_id, later - 1).await, Ok(true));
    assert!(fire(store, &hits[1..2]).await.is_empty(), "known still");
    assert_eq!(store.hits.acknowledge("t", fired[0].hit_id, later).await, Ok(true));
    assert_eq!(fire(store, &hits[1..2]).await.len(), 1);
    assert!(fire(store, &hits[2..]).await.is_empty(), "that one was acknowledged later");
}

async fn once(store: &Relational) {
    let one = alert(store, "o", true).await;
    let [first, second] = [1, 2].map(|seq| hit(&one, position("e", seq)));
    let fired = fire(store, &[first.clone(), second.clone()]).await;
    assert_eq!(fired.len(), 1);
    assert_eq!(fired[0].position, first.0.position);
    let over = read(store, &one).await;
    assert_eq!((over.active, &over.state), (false, &first.1));
    assert!(fire(store, &[first, second]).await.is_empty(), "it is over");
    assert!(!store.alerts.of_symbol(&one.spec.symbol).await.expect("listed").contains(&over));
    assert_eq!(store.alerts.of_user("o").await.expect("listed").len(), 1, "the user still has it");
    assert_eq!(store.hits.acknowledge("o", fired[0].hit_id, NOW).await, Ok(true));
    assert!(pending(store, "o").await.is_empty());
}

async fn batches(store: &Relational) {
    let mut alerts = Vec::new();
    for i in 0..20 {
        alerts.push(alert(store, "b", i % 2 == 0).await);
    }
    // Each alert three times, one of them twice, in an order that is not that of their ids.
    let mut batch = Vec::new();
    for seq in [1, 2, 2] {
        batch.extend(alerts.iter().rev().map(|alert| hit(alert, position("e", seq))));
    }
    let fired = fire(store, &batch).await;
    assert_eq!(fired.len(), 10 + 2 * 10, "once, or twice");
    let mut expected = batch[..20].to_vec();
    expected.extend(batch[20..40].iter().filter(|(hit, _)| !hit.spec.once).cloned());
    let places = |hit: &Hit| (hit.position.seq, hit.alert_id);
    let in_order = fired.iter().map(places).eq(expected.iter().map(|(hit, _)| places(hit)));
    assert!(in_order, "in the order of the call");
    assert!(fired.is_sorted_by_key(|hit| hit.hit_id), "ids too");
    assert_eq!(pending(store, "b").await.len(), fired.len());
    for alert in &alerts {
        let (seq, after) = (if alert.spec.once { 1 } else { 2 }, read(store, alert).await);
        assert_eq!((after.active, after.state), (!alert.spec.once, hit(alert, position("e", seq)).1));
    }
}

async fn gone(store: &Relational) {
    let (kept, deleted) = (alert(store, "g", false).await, alert(store, "g", false).await);
    let both = [hit(&deleted, position("e", 1)), hit(&kept, position("e", 1))];
    assert_eq!(fire(store, &both).await.len(), 2);
    assert_eq!(store.alerts.delete("g", deleted.id).await, Ok(true));
    let left = pending(store, "g").await;
    assert_eq!(left.len(), 1, "hits go with their alert");
    assert_eq!(left[0].alert_id, kept.id);
    let never = Alert { id: u64::MAX, ..deleted.clone() };
    let three = [&deleted, &kept, &never].map(|alert| hit(alert, position("e", 2)));
    let fired = fire(store, &three).await;
    assert_eq!(
        fired.iter().map(|hit| hit.alert_id).collect::<Vec<_>>(),
        [kept.id],
        "the others are left out"
    );
}

/// Whoever fires at the same time, exactly one is answered.
async fn meeting(store: &Relational) {
    for once in [false, true] {
        let user = if once { "meet once" } else { "meet" };
        let (a, b) = (alert(store, user, once).await, alert(store, user, once).await);
        let calls: Vec<_> = (0..MANY)
            .map(|i| {
                // Of those with `once`, each call brings another position.
                let seq = if once { 1 + i as u64 } else { 1 };
                let mut both = [&a, &b].map(|alert| hit(alert, position("e", seq)));
                if i % 2 == 0 {
                    both.reverse();
                }
                both
            })
            .collect();
        let answers = join_all(calls.iter().map(|hits| fire(store, hits))).await;
        for alert in [&a, &b] {
            let answered = answers.iter().flatten().filter(|hit| hit.alert_id == alert.id).count();
            assert_eq!(answered, 1, "once: {once}");
        }
        let kept = pending(store, user).await;
        assert_eq!(kept.len(), 2);
        assert!(kept.iter().all(|hit| answers.iter().flatten().any(|answered| answered == hit)));
        let id = kept[0].hit_id;
        let acknowledged = join_all((0..MANY).map(|_| store.hits.acknowledge(user, id, NOW))).await;
        let acknowledged = acknowledged.into_iter().filter(|answer| *answer == Ok(true)).count();
        assert_eq!(acknowledged, 1, "one acknowledged it");
    }

    // An alert that is deleted while it fires leaves nothing.
    for seq in 0..MANY as u64 {
        let one = alert(store, "race", false).await;
        let hits = [hit(&one, position("e", seq))];
        let (fired, deleted) = tokio::join!(store.hits.fire(&hits), store.alerts.delete("race", one.id));
        fired.expect("answered");
        assert_eq!(deleted, Ok(true));
    }
    assert!(pending(store, "race").await.is_empty());
}

async fn hostile_values(store: &Relational) {
    let one = alert(store, "e", false).await;
    for (seq, reached) in (1..).zip(EXTREMES) {
        let (hit, state) = hit(&one, position("e", seq));
        let fired = fire(store, &[(Hit { reached, ..hit }, state)]).await;
        assert_eq!(fired[0].reached.to_bits(), reached.to_bits());
        assert_eq!(store.hits.pending("e", 1).await, Ok(fired.clone()));
        let read = pending(store, "e").await;
        assert_eq!(read[read.len() - 1].reached.to_bits(), reached.to_bits());
    }
    let before = pending(store, "e").await.len();
    let mut kept = 0;
    for text in hostile() {
        let fired = done_or_refused(store.hits.fire(&[hit(&one, position(&text, 1))]).await);
        if let Some(fired) = fired {
            kept += 1;
            assert_eq!(store.hits.pending("e", 1).await, Ok(fired));
        }
        let listed = done_or_refused(store.hits.pending(&text, 1).await).unwrap_or_default();
        assert!(listed.is_empty());
        let acknowledged = done_or_refused(store.hits.acknowledge(&text, 1, NOW).await);
        assert!(!acknowledged.unwrap_or_default());
    }
    assert!(kept >= 5, "texts are not refused for what they say");
    assert_eq!(pending(store, "e").await.len(), before + kept);
    // What is refused is refused whole.
    let two = [hit(&one, position("whole", 1)), hit(&one, position("whole", u64::MAX))];
    if done_or_refused(store.hits.fire(&two).await).is_none() {
        assert_eq!(pending(store, "e").await.len(), before + kept);
    }
}
