//! The HTTP server of a node or gateway: `HttpServer` has no way to hand an upgraded socket over, so the service under
//! it is built here.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::time::Duration;

use actix_http::body::{BoxBody, MessageBody};
use actix_http::{HttpService, Protocol, Request, Response};
use actix_server::Server;
use actix_service::{IntoServiceFactory, ServiceFactory, ServiceFactoryExt, fn_service};
use tickmesh_cluster::config::ServerConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::handshake::Http;
use crate::listen::tune;
use crate::socket::Socket;
use crate::tls::{Acceptor, TlsError};

/// How connections are served.
#[derive(Debug, Clone)]
pub struct Options {
    /// In which a TLS handshake has to be done, and then a request's head has to arrive.
    pub handshake_timeout: Duration,
    /// See [`tune`].
    pub user_timeout: Duration,
    /// Without it, in the clear.
    pub tls: Option<Acceptor>,
}

impl Options {
    /// Those that are configured. Needs a runtime, on which certificates are watched.
    ///
    /// # Errors
    /// When the certificate or its key cannot be used.
    pub fn new(config: &ServerConfig) -> Result<Self, TlsError> {
        Ok(Self {
            handshake_timeout: Duration::from_millis(config.handshake_timeout_ms),
            user_timeout: Duration::from_millis(config.tcp_user_timeout_ms),
            tls: Acceptor::new(config.tls_certificate.as_deref(), config.tls_key.as_deref())?,
        })
    }
}

/// Worker threads, where so many are configured; 0 for one per core.
#[must_use]
pub fn workers(configured: usize) -> usize {
    match configured {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}

/// Serves one kind of connection: HTTP requests by `app`, and those that ask for an upgrade by `upgrade`, which gets the
/// socket.
pub fn service<S, B, U, F>(
    options: Options,
    app: impl IntoServiceFactory<S, Request>,
    upgrade: U,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = (), InitError = ()>
where
    S: ServiceFactory<Request, Config = ()> + 'static,
    S::Future: 'static,
    S::Error: Into<Response<BoxBody>> + 'static,
    S::InitError: fmt::Debug,
    S::Response: Into<Response<B>> + 'static,
    B: MessageBody + 'static,
    U: Fn(Request, Http) -> F + Clone + 'static,
    F: Future<Output = Result<(), actix_http::Error>> + 'static,
{
    let Options { handshake_timeout, user_timeout, tls } = options;
    let http = HttpService::build()
        .client_request_timeout(handshake_timeout)
        .client_disconnect_timeout(Duration::from_secs(1))
        // Whoever goes away while it waits for an answer is gone: a poll of Socket.IO would be held for nobody.
        .h1_allow_half_closed(false)
        .upgrade(fn_service(move |(request, http): (Request, Http)| upgrade(request, http)))
        .finish(app)
        .map_err(|error| tracing::debug!(?error, "connection ended"));
    fn_service(move |stream: TcpStream| {
        let tls = tls.clone();
        async move {
            let _ = stream.set_nodelay(true);
            tune(&stream, user_timeout);
            let peer = stream.peer_addr().ok();
            let socket = match tls {
                None => Socket::Tcp(stream),
                Some(tls) => match timeout(handshake_timeout, Box::pin(tls.accept(stream))).await {
                    Ok(Ok(socket)) => socket,
                    Ok(Err(error)) => {
                        tracing::debug!(?peer, %error, "no TLS handshake");
                        return Err(());
                    }
                    Err(_) => return Err(()),
                },
            };
            Ok((socket, Protocol::Http1, peer))
        }
    })
    .and_then(http)
}

/// Runs a server on worker threads; `service` is called on each of them.
///
/// # Errors
/// When the listener cannot be used.
pub fn run<F, S>(name: &str, workers: usize, listener: TcpListener, service: F) -> io::Result<Server>
where
    F: Fn() -> S + Send + Clone + 'static,
    S: ServiceFactory<TcpStream, Config = ()> + 'static,
    S::InitError: fmt::Debug,
{
    Server::build()
        .workers(workers)
        // How many clients there may be is counted where they are told so.
        .max_concurrent_connections(usize::MAX >> 1)
        .disable_signals()
        .shutdown_timeout(1)
        .listen(name, listener, service)
        .map(actix_server::ServerBuilder::run)
}
