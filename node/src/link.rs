//! The node's end of a link: a connection over which a gateway hands it a client's session.
//!
//! A link begins as a WebSocket handshake at `/link`, with the cluster's secret as its credential, because that is the
//! upgrade for which the HTTP server hands its socket over; from then on it carries records. It may wait, warm, until
//! the gateway has a client for it, and answers pings meanwhile. Snapshots are taken from here alone.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use bytes::Bytes;
use subtle::ConstantTimeEq;
use tickmesh_protocol::link::{self, Attach, Open, Records, ToGateway, ToNode};
use tickmesh_protocol::session::{Application, Session, Wire};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::clock;
use crate::session::{Connection, SessionActor};
use crate::worker::Worker;
use tickmesh_edge::limits::ConnectionGuard;
use tickmesh_edge::socket::Socket;

/// Bytes read at a time while the link waits.
const READ: usize = 4 * 1024;

/// What a gateway wants of a waiting link.
enum Wanted {
    Open(Open),
    Attach(Box<Attach>),
}

/// Whether the credential is the cluster's secret. Without one there are no links.
pub(crate) fn is_secret(secret: &str, credential: Option<&str>) -> bool {
    let given = credential.unwrap_or_default();
    !secret.is_empty() && bool::from(secret.as_bytes().ct_eq(given.as_bytes()))
}

/// Waits for a session, and starts it.
pub(crate) async fn serve(worker: Rc<Worker>, mut stream: Socket, early: Bytes) {
    let mut records = Records::default();
    match wait(&mut stream, &mut records, early).await {
        Ok(Some(wanted)) => begin(&worker, stream, records, wanted).await,
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, "a link that waited is lost"),
    }
}

async fn wait(stream: &mut Socket, records: &mut Records, early: Bytes) -> io::Result<Option<Wanted>> {
    let mut input = Vec::from(early);
    loop {
        let (mut wanted, mut pings, mut odd) = (None, 0, false);
        let fed = records.feed_node(&input, |record| {
            match record {
                ToNode::Open(open) => wanted = Some(Wanted::Open(open)),
                ToNode::Attach(attach) => wanted = Some(Wanted::Attach(attach)),
                ToNode::Ping => pings += 1,
                ToNode::Up(..) | ToNode::Freeze => odd = true,
            }
            // What follows is for the session.
            wanted.is_none() && !odd
        });
        fed.map_err(|error| io::Error::other(error.to_string()))?;
        if odd {
            return Err(io::Error::other("a record for a session that is not there"));
        }
        for _ in 0..pings {
            stream.write_all(&ToGateway::Pong.encode()).await?;
            stream.flush().await?;
        }
        if wanted.is_some() {
            return Ok(wanted);
        }
        input.resize(READ, 0);
        let read = stream.read(&mut input).await?;
        if read == 0 {
            return Ok(None);
        }
        input.truncate(read);
    }
}

async fn begin(worker: &Rc<Worker>, mut stream: Socket, records: Records, wanted: Wanted) {
    let (version, remote) = match &wanted {
        Wanted::Open(open) => (open.version, open.remote.clone()),
        Wanted::Attach(attach) => (attach.version, attach.remote.clone()),
    };
    let guard: Result<ConnectionGuard, String> = if version == link::VERSION {
        // The gateway counts addresses.
        worker.connections.admit(None).map_err(|refusal| refusal.to_string())
    } else {
        Err(format!("link version {version}, this node speaks {}", link::VERSION))
    };
    let guard = match guard {
        Ok(guard) => guard,
        Err(reason) => {
            worker.metrics.refused("link");
            let _ = stream.write_all(&ToGateway::Refused(reason).encode()).await;
            let _ = stream.shutdown().await;
            return;
        }
    };
    let now = clock::now();
    let policy = worker.policies.current();
    let session = match wanted {
        Wanted::Attach(attach) => Session::restore(now, policy, attach.snapshot, true),
        Wanted::Open(Open { socketio: Some(handshake), session_id, token, batch, .. }) => {
            let (application, wire) =
                (Application::Tickmesh, Wire { batch, linked: true, ..Wire::socketio() });
            Session::socketio(now, &session_id, policy, &handshake, token, application, wire)
        }
        Wanted::Open(open) => {
            let Open { encoding, batch, max_bandwidth, .. } = open;
            let wire = Wire { encoding, batch, max_bandwidth, linked: true };
            match worker.auth.identify(open.token.as_deref(), now.utc) {
                Ok(identity) => Session::new(now, &open.session_id, policy, identity, wire),
                Err(error) => {
                    worker.metrics.refused("authentication");
                    let code = error.close_code();
                    Session::refused(now, &open.session_id, policy, wire, &error.into(), code)
                }
            }
        }
    };
    let remote = remote.parse().unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
    let connection = Connection { stream, early: Bytes::new(), records: Some(records) };
    SessionActor::spawn(session, worker.clone(), remote, connection, guard);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_opens_a_link() {
        assert!(is_secret("secret", Some("secret")));
        assert!(!is_secret("secret", Some("secre")));
        assert!(!is_secret("secret", None));
        assert!(!is_secret("", Some("")), "no secret, no links");
    }
}
