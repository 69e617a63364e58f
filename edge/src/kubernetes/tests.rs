//! Against an API server of the test's own, by TLS and HTTP.

use std::net::TcpListener;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::tls::Acceptor;

const DEADLINE: Duration = Duration::from_secs(20);
const EVERY: Duration = Duration::from_millis(50);

/// A service account and the API server that it is for.
struct Server {
    account: TempDir,
    host: &'static str,
    port: u16,
    /// What was asked: the head, and the body.
    asked: mpsc::Receiver<(String, Value)>,
}

impl Server {
    /// At an address; answers with these statuses, and then 200.
    fn start(host: &'static str, statuses: &'static [&'static str]) -> Self {
        let account = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned(), NAME.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        for (name, text) in [
            ("ca.crt", issuer.pem()),
            ("server.crt", certificate.pem()),
            ("server.key", key.serialize_pem()),
            ("namespace", "market".into()),
            ("token", "first\n".into()),
        ] {
            std::fs::write(account.path().join(name), text).unwrap();
        }
        let path = |name| account.path().join(name);
        let acceptor = Acceptor::new(Some(&path("server.crt")), Some(&path("server.key"))).unwrap().unwrap();
        let listener = TcpListener::bind((host, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (told, asked) = mpsc::channel(16);
        tokio::spawn(async move {
            let mut statuses = statuses.iter();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = acceptor.accept(stream).await.unwrap();
                let (mut input, mut body) = (Vec::new(), None);
                while body.is_none() {
                    if stream.read_buf(&mut input).await.unwrap_or(0) == 0 {
                        break;
                    }
                    let text = String::from_utf8_lossy(&input).into_owned();
                    let parts = text.split_once("\r\n\r\n");
                    body = parts.and_then(|(head, body)| {
                        serde_json::from_str(body).ok().map(|body| (head.to_lowercase(), body))
                    });
                }
                let Some(asked) = body else { continue };
                let status = statuses.next().unwrap_or(&"200 OK");
                let answer =
                    format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}");
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
                told.send(asked).await.unwrap();
            }
        });
        Self { account, host, port, asked }
    }

    fn keep(&self, connections: &Arc<Connections>) {
        let pod = Pod::new((self.host, self.port), self.account.path(), "node-abc").unwrap();
        actix_web::rt::spawn(keep(pod, connections.clone(), EVERY));
    }

    /// The next request, and the annotation that it writes.
    async fn asked(&mut self) -> (String, String) {
        let (head, body) = timeout(DEADLINE, self.asked.recv()).await.expect("it is asked").unwrap();
        let cost = body["metadata"]["annotations"][ANNOTATION].as_str().map(str::to_owned);
        let cost = cost.unwrap_or_else(|| panic!("{body}"));
        let only = json!({ "metadata": { "annotations": { ANNOTATION: cost } } });
        assert_eq!(body, only, "nothing else is written");
        (head, cost)
    }

    async fn is_not_asked(&mut self) {
        assert!(timeout(EVERY * 8, self.asked.recv()).await.is_err());
    }
}

#[actix_web::test]
async fn the_annotation_follows_the_connections() {
    let mut server = Server::start("127.0.0.1", &[]);
    let connections = Connections::new(1_000, 0);
    server.keep(&connections);
    let (head, cost) = server.asked().await;
    assert_eq!(cost, "0");
    assert!(head.starts_with("patch /api/v1/namespaces/market/pods/node-abc/status http/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: application/merge-patch+json"), "{head}");
    assert!(head.contains("authorization: bearer first"), "{head}");
    server.is_not_asked().await;

    let mut held: Vec<_> = (0..100).map(|_| connections.admit(None).unwrap()).collect();
    assert_eq!(server.asked().await.1, "100");
    held.truncate(90);
    server.is_not_asked().await;
    // The token was replaced meanwhile, as Kubernetes does before it expires.
    std::fs::write(server.account.path().join("token"), "second").unwrap();
    held.truncate(89);
    let (head, cost) = server.asked().await;
    assert_eq!(cost, "89");
    assert!(head.contains("authorization: bearer second"), "{head}");
    // A pod that drains goes before one that is empty.
    connections.drain();
    assert_eq!(server.asked().await.1, "-1");
    held.clear();
    server.is_not_asked().await;
}

#[actix_web::test]
async fn what_failed_is_tried_again_with_what_is_true_then() {
    let mut server =
        Server::start("127.0.0.1", &["403 Forbidden", "500 Internal Server Error", "429 Too Many Requests"]);
    let connections = Connections::new(1_000, 0);
    server.keep(&connections);
    assert_eq!(server.asked().await.1, "0");
    let _held = connections.admit(None).unwrap();
    for _ in 0..3 {
        assert_eq!(server.asked().await.1, "1");
    }
    server.is_not_asked().await;
}

#[actix_web::test]
async fn a_server_at_an_address_of_ipv6_is_known_by_its_name() {
    let mut server = Server::start("::1", &[]);
    server.keep(&Connections::new(1, 0));
    let (head, _) = server.asked().await;
    assert!(head.contains("host: kubernetes.default.svc"), "{head}");
}

#[actix_web::test]
async fn another_server_gets_no_token() {
    let mut server = Server::start("127.0.0.1", &[]);
    let other = Server::start("127.0.0.1", &[]);
    std::fs::copy(other.account.path().join("ca.crt"), server.account.path().join("ca.crt")).unwrap();
    let pod = Pod::new((server.host, server.port), server.account.path(), "node-abc").unwrap();
    assert!(matches!(pod.write(1).await, Err(Failure::Request(_))));
    assert!(server.asked.try_recv().is_err());
}

#[actix_web::test]
async fn a_process_that_is_in_no_pod_says_what_is_missing() {
    let server = Server::start("127.0.0.1", &[]);
    std::fs::remove_file(server.account.path().join("token")).unwrap();
    let error = Pod::new((server.host, server.port), server.account.path(), "node-abc").err().unwrap();
    let text = error.to_string();
    assert!(text.starts_with("kubernetes.service_account: ") && text.contains("/token: "), "{text}");
}

#[test]
fn small_changes_are_not_written() {
    assert!(is_due(None, 0));
    for (written, now, due) in [
        (0, 0, false),
        (0, 1, true),
        (1, 0, true),
        (1_000, 1_100, false),
        (1_000, 899, true),
        (0, -1, true),
        (-1, 0, true),
        (-1, -1, false),
    ] {
        assert_eq!(is_due(Some(written), now), due, "{written} and now {now}");
    }
}
