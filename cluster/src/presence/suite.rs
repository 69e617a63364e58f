//! What every implementation of [`Presence`] must do. It panics where a guarantee is broken.

use std::time::Duration;

use tickmesh_protocol::room::RoomName;
use tokio::time::{Instant, sleep};

use super::{Attendee, Presence};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(200);
const DEADLINE: Duration = Duration::from_secs(10);

fn attendee(name: &str) -> Attendee {
    Attendee { session_id: name.into(), user_id: format!("user of \"{name}\"") }
}

/// Runs every check, in rooms that nobody else uses.
///
/// # Panics
/// When a guarantee is broken.
pub async fn run(presence: &dyn Presence) {
    let (room, other) = (RoomName::new("r").expect("a name"), RoomName::new("other").expect("a name"));
    let (a, b, c) = (attendee("a"), attendee("b"), attendee("c"));
    let enter = async |who: &[Attendee], lease| presence.enter(&room, who, lease).await.expect("entered");
    let leave = async |who: &[Attendee]| presence.leave(&room, who).await.expect("left");
    let expire = async || presence.expire(&room).await.expect("expired");

    assert_eq!(enter(&[a.clone(), b.clone()], LONG).await, [a.clone(), b.clone()]);
    assert_eq!(
        enter(&[b.clone(), c.clone()], LONG).await,
        std::slice::from_ref(&c),
        "only who was not there"
    );
    assert_eq!(
        presence.enter(&other, std::slice::from_ref(&a), LONG).await.expect("entered"),
        std::slice::from_ref(&a)
    );
    assert_eq!(leave(&[a.clone(), b.clone()]).await, [a.clone(), b.clone()]);
    assert!(leave(std::slice::from_ref(&a)).await.is_empty(), "gone already");
    assert!(expire().await.is_empty(), "the lease of the third lasts");
    assert_eq!(leave(std::slice::from_ref(&c)).await, [c]);

    enter(&[a.clone(), b.clone()], SHORT).await;
    let end = Instant::now() + DEADLINE;
    let mut gone = Vec::new();
    while gone.is_empty() {
        assert!(Instant::now() < end, "a lease ends");
        // One of the two is renewed all the time.
        assert!(enter(std::slice::from_ref(&b), LONG).await.is_empty());
        gone = expire().await;
        sleep(SHORT / 10).await;
    }
    assert_eq!(gone, std::slice::from_ref(&a));
    assert!(expire().await.is_empty(), "told once");
    assert_eq!(enter(std::slice::from_ref(&a), LONG).await, [a]);
}
