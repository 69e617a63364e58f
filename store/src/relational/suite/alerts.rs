//! What every [`Alerts`] must do.

use futures_util::future::join_all;
use tickmesh_protocol::market::{AlertSpec, Op};

use super::{EXTREMES, MANY, NOW, done_or_refused, hostile, position, spec, state, symbol};
use crate::relational::{Alert, AlertState, Alerts};

/// Runs every check.
///
/// # Panics
/// When a guarantee is broken.
pub async fn alerts(store: &dyn Alerts) {
    lists(store).await;
    states(store).await;
    meeting(store).await;
    hostile_texts(store).await;
}

async fn created(store: &dyn Alerts, user: &str, spec: &AlertSpec) -> Alert {
    store
        .create(user, spec, &AlertState::default(), NOW, usize::MAX)
        .await
        .expect("answered")
        .expect("created")
}

async fn only(store: &dyn Alerts, user: &str) -> Alert {
    let mut all = store.of_user(user).await.expect("listed");
    assert_eq!(all.len(), 1);
    all.remove(0)
}

async fn lists(store: &dyn Alerts) {
    let of_user = async |user: &str| store.of_user(user).await.expect("listed");
    let of_symbol = async |name: &str| store.of_symbol(&symbol(name)).await.expect("listed");
    assert!(of_user("u").await.is_empty());
    assert_eq!(
        store.create("u", &spec("A", true), &AlertState::default(), NOW, 0).await,
        Ok(None),
        "none fits"
    );
    let a = created(store, "u", &spec("A", true)).await;
    let expected = Alert {
        id: a.id,
        user_id: "u".into(),
        spec: spec("A", true),
        created_at: NOW,
        active: true,
        state: AlertState::default(),
    };
    assert_eq!(a, expected);
    let at = state(0, true, position("log", 7));
    let begun =
        store.create("begun", &spec("A", true), &at, NOW, 1).await.expect("answered").expect("created");
    assert_eq!((&begun.state, &only(store, "begun").await), (&at, &begun), "it begins where it was told");
    assert_eq!(store.delete("begun", begun.id).await, Ok(true));
    let b = created(store, "u", &spec("B", false)).await;
    let of_v = created(store, "v", &spec("A", false)).await;
    assert!(0 < a.id && a.id < b.id && b.id < of_v.id, "ids rise");
    assert_eq!(
        store.create("u", &spec("C", true), &AlertState::default(), NOW, 2).await,
        Ok(None),
        "two are there"
    );
    assert_eq!(of_user("u").await, [a.clone(), b.clone()]);
    assert_eq!(of_symbol("A").await, [a.clone(), of_v.clone()], "of all users");
    assert!(of_symbol("C").await.is_empty());

    assert_eq!(store.delete("v", a.id).await, Ok(false), "another's");
    assert_eq!(store.delete("u", b.id).await, Ok(true));
    assert_eq!(store.delete("u", b.id).await, Ok(false), "gone already");
    assert_eq!(store.delete("u", u64::MAX).await, Ok(false), "never there");
    let c = store
        .create("u", &spec("C", true), &AlertState::default(), NOW, 2)
        .await
        .expect("answered")
        .expect("there is room");
    assert!(c.id > of_v.id, "ids are never used again");
    assert_eq!(of_user("u").await, [a.clone(), c.clone()]);
    for id in [a.id, c.id] {
        assert_eq!(store.delete("u", id).await, Ok(true));
    }
    assert_eq!(of_symbol("A").await, [of_v]);
}

async fn states(store: &dyn Alerts) {
    let one = created(store, "keeper", &spec("KEPT", false)).await;
    let other = created(store, "keeper 2", &spec("KEPT", false)).await;
    let keep = async |states: &[(u64, AlertState)]| store.keep(states).await.expect("kept");
    keep(&[]).await;
    let unseen = AlertState { side: -1, armed: true, at: None };
    keep(&[(one.id, unseen.clone())]).await;
    assert_eq!(only(store, "keeper").await.state, unseen);

    let at = |seq| state(-1, true, position("e1", seq));
    keep(&[(one.id, at(5)), (other.id, state(1, false, position("e1", 9))), (u64::MAX, at(1))]).await;
    assert_eq!(only(store, "keeper").await, Alert { state: at(5), ..one.clone() }, "the rest is as it was");
    assert_eq!(only(store, "keeper 2").await.state, state(1, false, position("e1", 9)));
    keep(&[(one.id, state(1, false, position("e1", 4)))]).await;
    keep(&[(one.id, unseen)]).await;
    assert_eq!(only(store, "keeper").await.state, at(5), "what is older changes nothing");
    keep(&[(one.id, at(6)), (one.id, at(8)), (one.id, at(7))]).await;
    assert_eq!(only(store, "keeper").await.state, at(8), "the newest of one call");
    let newer_life = state(0, false, position("e2", 1));
    keep(&[(one.id, newer_life.clone())]).await;
    assert_eq!(only(store, "keeper").await.state, newer_life, "another epoch");

    // Whoever comes last, the newest stays.
    let calls: Vec<_> = (2..2 + MANY as u64)
        .map(|seq| {
            let state = state(1, true, position("e2", seq));
            let mut both = [(one.id, state.clone()), (other.id, state)];
            // Calls that name the same in different orders do not block each other for ever.
            if seq % 2 == 0 {
                both.reverse();
            }
            both
        })
        .collect();
    join_all(calls.iter().map(|states| keep(states))).await;
    let newest = state(1, true, position("e2", 1 + MANY as u64));
    assert_eq!(only(store, "keeper").await.state, newest);
    assert_eq!(only(store, "keeper 2").await.state, newest);

    // As many as there may be.
    let large: Vec<_> = (0..5_000).map(|i| (1_000_000 + i, newest.clone())).collect();
    keep(&large).await;
    assert_eq!(store.delete("keeper", one.id).await, Ok(true));
    keep(&[(one.id, newest)]).await;
    assert!(store.of_user("keeper").await.expect("listed").is_empty(), "what is gone stays gone");
}

/// Where calls meet, no user gets too many, and no id comes twice.
async fn meeting(store: &dyn Alerts) {
    let (most, spec, begin) = (MANY / 3, spec("MANY", false), AlertState::default());
    let created = join_all((0..MANY).map(|_| store.create("many", &spec, &begin, NOW, most))).await;
    let mut ids: Vec<_> =
        created.into_iter().filter_map(|answer| answer.expect("answered")).map(|alert| alert.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), most, "as many as fit");
    let listed: Vec<_> = store.of_user("many").await.expect("listed").iter().map(|alert| alert.id).collect();
    assert_eq!(listed, ids, "in order of their ids");
}

async fn hostile_texts(store: &dyn Alerts) {
    let mut kept = 0;
    for text in hostile() {
        let field = AlertSpec { field: text.clone(), ..spec("H", false) };
        for (user, spec) in [(&text[..], spec("H", false)), ("hostile field", field)] {
            if let Some(alert) =
                done_or_refused(store.create(user, &spec, &AlertState::default(), NOW, 99).await).flatten()
            {
                kept += 1;
                assert_eq!(only(store, user).await, alert, "as it was given");
                let at = state(1, true, position(&text, 3));
                if done_or_refused(store.keep(&[(alert.id, at.clone())]).await).is_some() {
                    assert_eq!(only(store, user).await.state, at);
                }
                assert_eq!(store.delete(user, alert.id).await, Ok(true));
            }
            assert!(done_or_refused(store.of_user(user).await).unwrap_or_default().is_empty());
            assert!(!done_or_refused(store.delete(user, 1).await).unwrap_or_default());
        }
    }
    assert!(kept >= 6, "texts are not refused for what they say");
    for (value, op) in
        EXTREMES.into_iter().zip([Op::Above, Op::Below, Op::AtLeast, Op::AtMost].iter().cycle())
    {
        let spec = AlertSpec { value, op: *op, ..spec("H", true) };
        let alert = created(store, "extreme", &spec).await;
        let read = only(store, "extreme").await;
        assert_eq!(read, alert);
        assert_eq!(read.spec.value.to_bits(), value.to_bits());
        assert_eq!(store.delete("extreme", alert.id).await, Ok(true));
    }
    let endless = AlertSpec { value: f64::INFINITY, ..spec("H", true) };
    assert_eq!(
        done_or_refused(store.create("extreme", &endless, &AlertState::default(), NOW, 9).await),
        None,
        "not finite"
    );
}
