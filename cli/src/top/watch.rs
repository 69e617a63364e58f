//! One look at the cluster by its API.

use awc::http::{Method, StatusCode};
use futures_util::future::join4;
use serde_json::Value;

use super::model::Answers;
use crate::api::{Api, Refused};

/// Messages that are asked for of each process: it has said something within the last seconds.
const FOR_EACH: usize = 4;
/// Messages at least, for processes that nobody has told of yet.
const LEAST: usize = 64;
/// What the API allows.
const MOST: usize = 10_000;
/// Events that are shown at most.
const EVENTS: usize = 50;

/// Why there is nothing to show.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// Whoever asks may not know. Asking again is of no use.
    Denied(String),
    /// Nobody answers, or not now.
    Away(String),
}

/// Asks for everything at once. `processes` are as many as were known before.
///
/// What an older server does not have is none; what cannot be told now is none too, and told as trouble.
pub(super) async fn look(api: &Api, processes: usize) -> Result<Answers, Unanswered> {
    let limit = (processes * FOR_EACH).clamp(LEAST, MOST);
    let vitals = format!("/api/v1/rooms/system_cluster/history?limit={limit}");
    let events = format!("/api/v1/rooms/system_events/history?limit={EVENTS}");
    let get = |path: String| async move { api.ask(Method::GET, &path).await };
    let (cluster, vitals, events, alarms) =
        join4(get("/api/v1/cluster".into()), get(vitals), get(events), get("/api/v1/alarms".into())).await;
    let mut answers = Answers { cluster: cluster.map_err(unanswered)?, ..Answers::default() };
    // Whoever may not see alarms may not see the rest either, whatever a room's class says.
    if let Err(error) = &alarms
        && denied(error)
    {
        return Err(Unanswered::Denied(format!("{error:#}")));
    }
    let mut part = |part: anyhow::Result<Value>| match part {
        Ok(value) => Some(value),
        Err(error) => {
            let lacking = status(&error)
                .is_some_and(|status| status == StatusCode::NOT_FOUND || status == StatusCode::FORBIDDEN);
            if !lacking {
                answers.trouble.get_or_insert_with(|| format!("{error:#}"));
            }
            None
        }
    };
    (answers.vitals, answers.events, answers.alarms) = (part(vitals), part(events), part(alarms));
    Ok(answers)
}

fn status(error: &anyhow::Error) -> Option<StatusCode> {
    error.downcast_ref::<Refused>().map(|refused| refused.status)
}

fn denied(error: &anyhow::Error) -> bool {
    status(error).is_some_and(|status| matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN))
}

fn unanswered(error: anyhow::Error) -> Unanswered {
    let text = format!("{error:#}");
    if denied(&error) { Unanswered::Denied(text) } else { Unanswered::Away(text) }
}
