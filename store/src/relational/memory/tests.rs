use tickmesh_protocol::identity::{Grants, Role};
use tickmesh_protocol::market::Op;
use tickmesh_protocol::position::Position;

use super::*;
use crate::relational::suite;

const MOST: usize = 1 << 20;

#[tokio::test]
async fn conformance() {
    suite::run(&MemoryRelational::new(64 << 20).relational()).await;
}

impl MemoryRelational {
    /// What each part holds, added up anew.
    fn recount(&self) -> [usize; 3] {
        let data = self.data.lock();
        let lists = data.watchlists.iter().map(|(user, list)| {
            weight::watchlist(user, list.capacity()) + list.iter().map(weight::symbol).sum::<usize>()
        });
        let asked = data.keys.values().map(weight::key).sum::<usize>()
            + data.revoked.keys().map(|jti| weight::revoked(jti)).sum::<usize>()
            + lists.sum::<usize>()
            + data.alerts.values().map(weight::alert).sum::<usize>();
        let hits = data.hits.values().map(weight::hit).sum();
        assert_eq!(data.hits.len(), data.fired.len());
        [asked, hits, data.audit.values().map(weight::event).sum()]
    }

    fn held(&self) -> [usize; 3] {
        let data = self.data.lock();
        [data.asked.held, data.hit_bytes.held, data.audit_bytes.held]
    }
}

fn event(at: u64, reason: &str) -> AuditEvent {
    AuditEvent {
        at,
        event: "connected".into(),
        session_id: "s".into(),
        user_id: "u".into(),
        node_id: "n".into(),
        remote: "r".into(),
        reason: reason.into(),
    }
}

#[tokio::test]
async fn the_audit_keeps_its_newest_events_in_a_quarter_of_the_bytes() {
    let memory = MemoryRelational::new(MOST);
    for at in 0..5_000 {
        let reason = if at % 10 == 0 { "x".repeat(3_000) } else { String::new() };
        memory.record(&[event(at, &reason)]).await.unwrap();
        assert!(memory.held()[2] <= MOST / 4);
    }
    assert_eq!(memory.held(), memory.recount());
    let kept = Audit::list(&memory, None, usize::MAX).await.unwrap();
    assert!(kept.len() > 100 && memory.held()[2] > MOST / 5, "{}", kept.len());
    let ats: Vec<_> = kept.iter().map(|event| event.at).collect();
    assert_eq!(
        ats,
        (5_000 - kept.len() as u64..5_000).rev().collect::<Vec<_>>(),
        "the newest, without holes"
    );
    memory.prune(4_990, usize::MAX).await.unwrap();
    assert_eq!(memory.held(), memory.recount());
}

fn spec() -> AlertSpec {
    AlertSpec {
        symbol: Symbol::new("S").unwrap(),
        field: "price".into(),
        op: Op::Crosses,
        value: 1.0,
        once: false,
    }
}

#[tokio::test]
async fn hits_that_nobody_acknowledges_are_bounded_and_push_out_nobody_elses() {
    let memory = MemoryRelational::new(MOST);
    let mut alerts = Vec::new();
    for user in ["busy", "quiet"] {
        let alert = memory.create(user, &spec(), &AlertState::default(), 0, 10).await.unwrap().unwrap();
        alerts.push(alert);
    }
    let fire = async |alert: &Alert, seq: u64| {
        let position = Position { epoch: Epoch::new("e"), seq };
        let hit = Hit {
            hit_id: 0,
            alert_id: alert.id,
            user_id: String::new(),
            spec: spec(),
            reached: 1.0,
            position: position.clone(),
            at: seq,
        };
        let state = AlertState { side: 1, armed: false, at: Some(position) };
        memory.fire(&[(hit, state)]).await.unwrap().len()
    };
    for seq in 1..=20 {
        assert_eq!(fire(&alerts[1], seq).await, 1);
    }
    for seq in 1..=5_000 {
        assert_eq!(fire(&alerts[0], seq).await, 1);
        assert!(memory.held()[1] <= MOST / 4);
    }
    assert_eq!(memory.held(), memory.recount());
    assert_eq!(fire(&alerts[0], 5_000).await, 0, "once");
    let quiet = memory.pending("quiet", usize::MAX).await.unwrap();
    assert_eq!(quiet.len(), 20);
    let busy = memory.pending("busy", usize::MAX).await.unwrap();
    assert!(busy.len() > 100 && busy.len() < 5_000);
    let seqs: Vec<_> = busy.iter().map(|hit| hit.position.seq).collect();
    assert_eq!(seqs, (5_001 - busy.len() as u64..=5_000).collect::<Vec<_>>(), "the newest, without holes");
    for hit in busy.iter().chain(&quiet) {
        assert!(memory.acknowledge(&hit.user_id, hit.hit_id, 1).await.unwrap());
    }
    for alert in &alerts {
        assert!(memory.delete(&alert.user_id, alert.id).await.unwrap());
    }
    assert_eq!(memory.held(), [0, 0, 0]);
}

#[tokio::test]
async fn what_somebody_asks_to_be_kept_is_refused_when_there_is_no_room() {
    let memory = MemoryRelational::new(MOST);
    let refused = |error: StoreError| {
        assert!(
            matches!(&error, StoreError::Refused(text) if text.contains("stores.memory_user_bytes")),
            "{error}"
        );
    };
    let symbol = Symbol::new("S").unwrap();
    let mut users = 0;
    let error = loop {
        match memory.add(&format!("user{users}"), &symbol, 10).await {
            Ok(true) => users += 1,
            Ok(false) => panic!("the list is empty"),
            Err(error) => break error,
        }
    };
    refused(error);
    assert!(users > 1_000, "{users}");
    assert!(memory.held()[0] <= MOST / 2 && memory.held()[0] > MOST / 3);
    assert_eq!(memory.held(), memory.recount());
    let key = ApiKey {
        id: "k".into(),
        hash: [0; 32],
        user_id: "u".into(),
        role: Role::User,
        grants: Grants::default(),
        created_at: 0,
        expires_at: None,
    };
    refused(memory.add_key(&key).await.unwrap_err());
    let token = RevokedToken { jti: "j".repeat(1_000), expires_at: 1 };
    refused(memory.revoke(&token).await.unwrap_err());
    refused(memory.create("u", &spec(), &AlertState::default(), 0, 10).await.unwrap_err());
    // What is there stays, and what is removed makes room.
    assert!(memory.add("user0", &symbol, 10).await.unwrap());
    for user in 0..20 {
        assert!(memory.remove(&format!("user{user}"), &symbol).await.unwrap());
    }
    memory.add_key(&key).await.unwrap();
    memory.revoke(&token).await.unwrap();
    memory.create("u", &spec(), &AlertState::default(), 0, 10).await.unwrap().unwrap();
    assert_eq!(memory.held(), memory.recount());
    assert!(memory.revoked(1).await.unwrap().is_empty(), "it has expired");
    assert!(memory.remove_key("k").await.unwrap());
    for user in 20..users {
        assert!(memory.remove(&format!("user{user}"), &symbol).await.unwrap());
    }
    assert!(memory.delete("u", 1).await.unwrap());
    assert_eq!(memory.held(), [0, 0, 0]);
}
