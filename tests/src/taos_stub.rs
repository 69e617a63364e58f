//! A PROTOCOL STUB of TDengine behind taosAdapter's WebSocket: enough of it for the real driver to run what `tickmesh-store`
//! does. It is no TDengine: what a real server makes of our SQL only a real server shows.
//!
//! It keeps rows as TDengine does (a row with the same primary key replaces the one before; a time outside of `KEEP` is
//! refused), records every SQL text and every bound row, and can be made to fail in the ways that servers fail.

mod sql;
mod store;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

pub use store::{Bound, Cell};
use store::{Failed, Store, Table};
use wire::{Answer, Frame};

/// Rows in one block of an answer.
const BLOCK_ROWS: usize = 1_000;

/// How the stub misbehaves.
#[derive(Debug, Clone, Default)]
struct Faults {
    silent: bool,
    delay: Duration,
    /// Queries whose SQL has this in it are answered so much later.
    slow: Option<(String, Duration)>,
    /// Code and text that writes and queries end with.
    error: Option<(i32, String)>,
    /// Connections end instead of an answer to this action.
    cut_at: Option<String>,
}

struct Shared {
    store: Mutex<Store>,
    faults: Mutex<Faults>,
    statements: Mutex<Vec<String>>,
    /// Changes when all connections have to end.
    life: watch::Sender<u64>,
    connected: AtomicU64,
}

/// A stub that listens on a port of its own. Its connections end when it is dropped.
pub struct TaosStub {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<tokio::task::JoinHandle<()>>,
}

impl TaosStub {
    /// Starts one on a free port of this host.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start() -> Self {
        let shared = Arc::new(Shared {
            store: Mutex::default(),
            faults: Mutex::default(),
            statements: Mutex::default(),
            life: watch::channel(0).0,
            connected: AtomicU64::new(0),
        });
        let mut stub = Self { address: SocketAddr::from(([127, 0, 0, 1], 0)), shared, listening: None };
        stub.restart().await;
        stub
    }

    /// Where it is, as the driver wants it, with a password that may not show anywhere.
    #[must_use]
    pub fn dsn(&self) -> String {
        format!("taos+ws://root:{}@{}/tickmesh", Self::PASSWORD, self.address)
    }

    /// The password in [`dsn`](Self::dsn).
    pub const PASSWORD: &str = "Stub-Password-7";

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening and ends all connections: nothing is there any more.
    pub async fn stop(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
            let _ = listening.await;
        }
        self.cut();
    }

    /// Listens again after [`stop`](Self::stop), on the same port and with the same data.
    ///
    /// # Panics
    /// When it still listens, or the port is taken.
    pub async fn restart(&mut self) {
        assert!(self.listening.is_none(), "it still listens");
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        socket.bind(self.address).unwrap_or_else(|error| panic!("{}: {error}", self.address));
        let listener = socket.listen(128).expect("listening");
        self.address = listener.local_addr().expect("an address");
        self.listening = Some(tokio::spawn(accept(listener, self.shared.clone())));
    }

    /// Ends all connections, in the middle of whatever they do.
    pub fn cut(&self) {
        self.shared.life.send_modify(|life| *life += 1);
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connected.load(Ordering::Relaxed)
    }

    /// Accepts connections and says nothing, on those that are open too.
    pub fn silence(&self, silent: bool) {
        self.shared.faults.lock().silent = silent;
    }

    /// Answers queries whose SQL has `part` in it so much later.
    pub fn slow(&self, slow: Option<(&str, Duration)>) {
        self.shared.faults.lock().slow = slow.map(|(part, delay)| (part.to_owned(), delay));
    }

    /// Answers so much later.
    pub fn delay(&self, delay: Duration) {
        self.shared.faults.lock().delay = delay;
    }

    /// Writes and queries end with this code and text, or work again.
    pub fn fail(&self, error: Option<(i32, &str)>) {
        self.shared.faults.lock().error = error.map(|(code, text)| (code, text.to_owned()));
    }

    /// Ends a connection once, when this action comes, before it is done: `binary_query`, `fetch`, `prepare`, `bind`, `exec`.
    pub fn cut_at(&self, action: &str) {
        self.shared.faults.lock().cut_at = Some(action.to_owned());
    }

    /// Refuses `KEEP` of super tables, as servers before 3.3.6 do.
    pub fn without_table_keep(&self) {
        self.shared.store.lock().knows_table_keep = false;
    }

    /// Every SQL text so far, prepared ones too.
    #[must_use]
    pub fn statements(&self) -> Vec<String> {
        self.shared.statements.lock().clone()
    }

    /// Every bound row of a table or of a super table's tables so far (the newest 100,000 of all), as it was sent.
    #[must_use]
    pub fn rows(&self, table: &str) -> Vec<Bound> {
        self.shared.store.lock().sent(table)
    }

    /// Rows that a super table's tables hold.
    #[must_use]
    pub fn kept(&self, stable: &str) -> usize {
        self.shared.store.lock().kept(stable)
    }

    /// Forgets all data, as a server that was set up anew.
    pub fn forget(&self) {
        let mut store = self.shared.store.lock();
        *store = Store::default();
    }
}

impl Drop for TaosStub {
    fn drop(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
        }
        self.cut();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        shared.connected.fetch_add(1, Ordering::Relaxed);
        let (shared, mut life) = (shared.clone(), shared.life.subscribe());
        tokio::spawn(async move {
            tokio::select! {
                () = serve(stream, &shared) => {}
                _ = life.changed() => {}
            }
        });
    }
}

/// One connection.
#[derive(Default)]
struct Session {
    database: Option<String>,
    statements: Vec<Statement>,
    results: Vec<Found>,
}

/// A prepared insert.
#[derive(Default)]
struct Statement {
    stable: String,
    table: String,
    tags: Vec<Value>,
    bound: Vec<Vec<Cell>>,
    batches: Vec<Table>,
}

/// What a query found and was not fetched yet.
#[derive(Default)]
struct Found {
    columns: Vec<store::Column>,
    rows: std::collections::VecDeque<Vec<Cell>>,
}

async fn serve(stream: TcpStream, shared: &Shared) {
    while shared.faults.lock().silent {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
    let mut session = Session::default();
    while let Some(Ok(message)) = socket.next().await {
        let frame = match message {
            Message::Text(text) => wire::text(text.as_str()),
            Message::Binary(bytes) => wire::binary(&bytes),
            Message::Close(_) => return,
            _ => continue,
        };
        let Some(frame) = frame else { return };
        let faults = shared.faults.lock().clone();
        if faults.cut_at.as_deref() == Some(frame.action()) {
            shared.faults.lock().cut_at = None;
            return;
        }
        if !faults.delay.is_zero() {
            tokio::time::sleep(faults.delay).await;
        }
        if let (Frame::Query { sql, .. }, Some((part, delay))) = (&frame, &faults.slow)
            && sql.contains(part.as_str())
        {
            tokio::time::sleep(*delay).await;
        }
        while shared.faults.lock().silent {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if answer(&mut socket, &mut session, shared, &faults, frame).await.is_none() {
            return;
        }
    }
}

async fn answer(
    socket: &mut WebSocketStream<TcpStream>,
    session: &mut Session,
    shared: &Shared,
    faults: &Faults,
    frame: Frame,
) -> Option<()> {
    let (action, req_id, stmt_id) = (frame.action().to_owned(), frame.req_id(), frame.id());
    let reply = match session.handle(shared, faults, frame) {
        Ok(None) => return Some(()),
        Ok(Some(Answer::Block(bytes))) => Message::Binary(bytes.into()),
        Ok(Some(Answer::Json(mut fields))) => {
            fields["code"] = json!(0);
            fields["message"] = json!("");
            Message::Text(wire::reply(&action, req_id, stmt_id, fields).into())
        }
        // As taosAdapter does, without the fields of a success: the driver panics over a failed `prepare`.
        Err(Failed(code, text)) => Message::Text(
            wire::reply(&action, req_id, stmt_id, json!({"code": code, "message": text})).into(),
        ),
    };
    socket.send(reply).await.ok()
}

impl Session {
    fn statement(&mut self, id: u64) -> Result<&mut Statement, Failed> {
        let place = usize::try_from(id).ok().and_then(|id| id.checked_sub(1));
        place
            .and_then(|place| self.statements.get_mut(place))
            .ok_or_else(|| Failed(0xFFFF, "stmt is nil".into()))
    }

    fn database(&self) -> Result<&str, Failed> {
        self.database.as_deref().ok_or_else(|| Failed(0x0388, "Database not specified or available".into()))
    }

    fn handle(&mut self, shared: &Shared, faults: &Faults, frame: Frame) -> Result<Option<Answer>, Failed> {
        let done = |fields| Ok(Some(Answer::Json(fields)));
        match frame {
            Frame::Version => done(json!({"version": "3.3.6.0"})),
            Frame::Connect { database, password, .. } => {
                if password != TaosStub::PASSWORD {
                    return Err(Failed(0x0357, "Authentication failure".into()));
                }
                if let Some(name) = database {
                    if !shared.store.lock().has_database(&name) {
                        return Err(Failed(0x0388, "Database not exist".into()));
                    }
                    self.database = Some(name);
                }
                done(json!({}))
            }
            Frame::Query { sql, .. } => {
                shared.statements.lock().push(sql.clone());
                self.query(shared, faults, &sql)
            }
            Frame::Fetch { req_id, id } => {
                let place = usize::try_from(id).ok().and_then(|id| id.checked_sub(1));
                let found = place.and_then(|place| self.results.get_mut(place));
                let found = found.ok_or_else(|| Failed(0xFFFF, "result is nil".into()))?;
                let count = found.rows.len().min(BLOCK_ROWS);
                let rows: Vec<Vec<Cell>> = found.rows.drain(..count).collect();
                Ok(Some(Answer::Block(wire::block_answer(req_id, id, &found.columns, &rows))))
            }
            Frame::Free => Ok(None),
            Frame::Init { .. } => {
                self.database()?;
                self.statements.push(Statement::default());
                done(json!({"stmt_id": self.statements.len()}))
            }
            Frame::Prepare { id, sql, .. } => {
                shared.statements.lock().push(sql.clone());
                let stable = sql::insert(&sql).ok_or_else(|| Failed(0x2600, "syntax error".into()))?;
                let statement = self.statement(id)?;
                *statement = Statement { stable, ..Statement::default() };
                done(json!({"is_insert": true}))
            }
            Frame::TableName { id, name, .. } => {
                self.statement(id)?.table = store::table_name(&name)?;
                done(json!({}))
            }
            Frame::Tags { id, tags, .. } => {
                self.statement(id)?.tags = tags;
                done(json!({}))
            }
            Frame::Bind { id, rows, .. } => {
                self.statement(id)?.bound = rows;
                done(json!({}))
            }
            Frame::AddBatch { id, .. } => {
                let statement = self.statement(id)?;
                let rows = std::mem::take(&mut statement.bound);
                let (name, tags) = (statement.table.clone(), statement.tags.clone());
                statement.batches.push(Table { stable: statement.stable.clone(), name, tags, rows });
                done(json!({}))
            }
            Frame::Exec { id, .. } => {
                let database = self.database()?.to_owned();
                let batches = std::mem::take(&mut self.statement(id)?.batches);
                if let Some((code, text)) = &faults.error {
                    return Err(Failed(*code, text.clone()));
                }
                done(json!({"affected": shared.store.lock().insert(&database, batches)?}))
            }
        }
    }

    fn query(&mut self, shared: &Shared, faults: &Faults, sql: &str) -> Result<Option<Answer>, Failed> {
        let mut store = shared.store.lock();
        if let Some(created) = sql::create(sql) {
            store.create(created)?;
            return Ok(Some(Answer::Json(
                json!({"id": 0, "is_update": true, "affected_rows": 0, "fields_count": 0}),
            )));
        }
        let (columns, rows) = if sql == "select server_status()" {
            let column = store::Column { name: "server_status()".into(), kind: store::Kind::BigInt, len: 8 };
            (vec![column], vec![vec![Cell::BigInt(1)]])
        } else {
            if let Some((code, text)) = &faults.error {
                return Err(Failed(*code, text.clone()));
            }
            let select =
                sql::select(sql).ok_or_else(|| Failed(0x2600, format!("syntax error near {sql}")))?;
            store.select(self.database()?, &select)?
        };
        let answer = json!({
            "id": self.results.len() + 1,
            "is_update": false,
            "affected_rows": 0,
            "fields_count": columns.len(),
            "fields_names": columns.iter().map(|column| &*column.name).collect::<Vec<_>>(),
            "fields_types": columns.iter().map(|column| column.kind.number()).collect::<Vec<_>>(),
            "fields_lengths": columns.iter().map(|column| column.len).collect::<Vec<_>>(),
            "precision": 0,
        });
        self.results.push(Found { columns, rows: rows.into() });
        Ok(Some(Answer::Json(answer)))
    }
}
