//! The pages, used in a browser against real gateways and nodes: what the dashboard shows is what the processes count, its buttons do
//! what they say, it survives the node behind it, and nothing on it needs another host or keeps anybody out.

use std::time::Duration;

use serde_json::{Value, json};
use tickmesh_tests::{Browser, Client, DEADLINE, NodeProcess, RedisServer, Sandbox, eventually, token};
use tokio::time::{Instant, sleep};

struct Cluster {
    server: RedisServer,
    nodes: Vec<NodeProcess>,
    gateway: NodeProcess,
}

impl Cluster {
    /// Two nodes, and a gateway that serves both pages.
    async fn start(environment: &[(&str, &str)]) -> Self {
        let server = RedisServer::start();
        let start = |n| NodeProcess::start(&format!("n{n}"), &server.url(), environment);
        let nodes: Vec<_> = (1..=2).map(start).collect();
        let gateway = NodeProcess::run(&["gateway", "--page"], "g1", &server.url(), environment);
        gateway.places_sessions_on(2).await;
        Self { server, nodes, gateway }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.gateway.address())
    }

    async fn clients(&self, count: usize, query: &str) -> Vec<Client> {
        let mut clients = Vec::new();
        for _ in 0..count {
            let mut client = Client::connect(self.gateway.address(), query).await;
            client.subscribe("market_ACME", json!({})).await;
            clients.push(client);
        }
        clients
    }

    async fn publish(&self, room: &str, data: Value) {
        let body = json!({"room": room, "event": "quote", "data": data}).to_string();
        let answer = Sandbox::http(self.gateway.address(), "POST", "/api/v1/publish", "", &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// The sum of a metric over its labels, at one process.
async fn metric(process: &NodeProcess, name: &str) -> f64 {
    let metrics = Sandbox::http(process.address(), "GET", "/metrics", "", "").await.body;
    let of = |line: &str| {
        let (head, value) = line.rsplit_once(' ')?;
        let found = head == name || head.strip_prefix(name).is_some_and(|labels| labels.starts_with('{'));
        found.then(|| value.parse::<f64>().ok())?
    };
    metrics.lines().filter_map(of).sum()
}

/// A row of the table of processes.
fn row(id: &str) -> String {
    format!("#member-rows tr[data-id=\"{id}\"]")
}

fn box_of(id: &str) -> String {
    format!("#map .process[data-id=\"{id}\"]")
}

async fn condition(page: &mut Browser, id: &str, condition: &str) {
    let (row, shown) = (row(id), box_of(id));
    page.until(&format!(
        "document.querySelector('{row}')?.dataset.condition === '{condition}' \
         && document.querySelector('{shown}')?.classList.contains('{condition}')"
    ))
    .await;
}

fn well(misdeeds: &Value) {
    assert_eq!(*misdeeds, json!([]));
}

#[tokio::test]
async fn what_is_shown_is_what_the_processes_count() {
    let cluster = Cluster::start(&[]).await;
    let _clients = cluster.clients(9, "").await;
    let mut page = Browser::start();
    page.open(&cluster.url("/dashboard")).await;
    page.until("document.querySelector('#state').className === 'connected'").await;
    // The page is a client itself.
    page.until("document.querySelector('#tile-connections').textContent === '10'").await;
    let mut counted = vec![("g1".to_owned(), &cluster.gateway, "tickmesh_gateway_clients_open")];
    counted.extend(cluster.nodes.iter().map(|node| (node.id().to_owned(), node, "tickmesh_sessions_open")));
    let end = Instant::now() + DEADLINE;
    loop {
        // Sessions may move between nodes meanwhile.
        let mut pairs = Vec::new();
        for (id, process, name) in &counted {
            let cell = format!("Number(document.querySelector('{} td:nth-child(4)')?.textContent)", row(id));
            let shown = page.evaluate(&cell).await.as_f64();
            pairs.push((shown, Some(metric(process, name).await)));
        }
        let nodes: f64 = pairs[1..].iter().filter_map(|(_, counted)| *counted).sum();
        if nodes == 10.0 && pairs.iter().all(|(shown, counted)| shown == counted) {
            break;
        }
        assert!(Instant::now() < end, "shown and counted: {pairs:?}");
        sleep(Duration::from_millis(100)).await;
    }

    // Traffic: its room with those who follow it, its messages, and how long they took.
    for seq in 0..400 {
        cluster.publish("market_ACME", json!({"price": 10.0 + f64::from(seq % 7)})).await;
    }
    page.until_text("#room-rows tr", "market_ACME").await;
    page.until(
        "[...document.querySelectorAll('#room-rows tr')].find((tr) => tr.cells[0].textContent === 'market_ACME')?.cells[2].textContent === '9'",
    )
    .await;
    page.until("/ms$/.test(document.querySelector('#tile-p99').textContent)").await;
    page.until("document.querySelectorAll('#charts canvas').length === 4").await;
    page.until_text("#chart-connections-text", "now 10").await;
    well(&page.misdeeds().await);
}

#[tokio::test]
async fn a_node_is_drained_and_resumed_after_a_question() {
    let cluster = Cluster::start(&[]).await;
    let _clients = cluster.clients(6, "").await;
    let mut page = Browser::start();
    page.open(&cluster.url("/dashboard")).await;
    condition(&mut page, "n1", "up").await;
    condition(&mut page, "n2", "up").await;
    let button = format!("{} [data-act=drain]", row("n1"));

    // No is no: by the button that has the focus, and by Escape.
    page.click(&button).await;
    page.until("document.querySelector('#confirm').open && document.activeElement.id === 'confirm-no'").await;
    page.press("Enter").await;
    page.until("!document.querySelector('#confirm').open").await;
    page.click(&button).await;
    page.press("Escape").await;
    page.until("!document.querySelector('#confirm').open").await;
    assert_eq!(metric(&cluster.nodes[0], "tickmesh_draining").await, 0.0);

    page.click(&button).await;
    page.click("#confirm-yes").await;
    condition(&mut page, "n1", "draining").await;
    eventually("its sessions are gone", || async {
        metric(&cluster.nodes[0], "tickmesh_sessions_open").await == 0.0
    })
    .await;
    page.until(&format!("document.querySelector('{} td:nth-child(4)').textContent === '0'", row("n1"))).await;
    page.until_text("#event-list li[data-event=node_draining]", "n1").await;
    page.until_text("#event-list li[data-event=moved]", "g1").await;

    // With the keyboard alone, from the box on the map.
    page.command(json!({"command": "focus", "selector": format!("{} .button", box_of("n1"))})).await;
    page.press("Enter").await;
    page.until("document.querySelector('#details').open").await;
    page.until_text("#details-act", "Resume").await;
    page.click("#details-act").await;
    page.until("document.querySelector('#confirm').open").await;
    page.press("Shift+Tab").await;
    page.press("Enter").await;
    condition(&mut page, "n1", "up").await;
    assert_eq!(page.sockets().await, json!(1));
    well(&page.misdeeds().await);
}

#[tokio::test]
async fn the_page_survives_the_node_behind_it() {
    let mut cluster = Cluster::start(&[]).await;
    let mut page = Browser::start();
    page.open(&cluster.url("/dashboard")).await;
    condition(&mut page, "n1", "up").await;
    condition(&mut page, "n2", "up").await;
    page.until("/^n[12]$/.test(document.querySelector('#via-node').textContent)").await;
    let behind = page.evaluate("document.querySelector('#via-node').textContent").await;
    let dying = cluster.nodes.iter_mut().find(|node| behind == node.id()).expect("it is one of them");
    let id = dying.id().to_owned();
    dying.kill();
    page.until(&format!(
        "document.querySelector('{}') === null && document.querySelector('{}') === null",
        box_of(&id),
        row(&id)
    ))
    .await;
    page.until_text("#event-list li[data-event=node_lost]", &id).await;
    // One that comes is there.
    let _new = NodeProcess::start("n3", &cluster.server.url(), &[]);
    condition(&mut page, "n3", "up").await;
    page.until_text("#event-list li[data-event=node_joined]", "n3").await;
    // It is the same connection all the time, and it goes on.
    assert_eq!(page.sockets().await, json!(1));
    assert_eq!(page.evaluate("document.querySelector('#state').className").await, "connected");
    well(&page.misdeeds().await);
}

#[tokio::test]
async fn the_page_comes_back_by_itself_when_the_gateway_does() {
    let mut cluster = Cluster::start(&[]).await;
    let mut page = Browser::start();
    page.open(&cluster.url("/dashboard")).await;
    // Not by what HTTP tells alone.
    page.until("document.querySelector('#state').className === 'connected'").await;
    condition(&mut page, "n1", "up").await;
    let at = cluster.gateway.address();
    cluster.gateway.kill();
    page.until_text("#state", "connection lost").await;
    page.until("document.body.classList.contains('stale')").await;
    // What was known stays, and is said to be old.
    page.until_text("#stale", "before the connection was lost").await;
    condition(&mut page, "n1", "up").await;
    cluster.gateway = NodeProcess::gateway_at(at, "g2", &cluster.server.url());
    page.until("document.querySelector('#state').className === 'connected'").await;
    condition(&mut page, "n1", "up").await;
    condition(&mut page, "g2", "up").await;
    page.until(&format!("document.querySelector('{}') === null", row("g1"))).await;
    well(&page.misdeeds().await);
}

#[tokio::test]
async fn an_alarm_comes_is_acknowledged_and_is_over() {
    let rule = r#"[{name = "connections_high", threshold = 5.0, clear = 4.0, for_ms = 0, clear_for_ms = 0}]"#;
    let cluster = Cluster::start(&[("TICKMESH_ALARMS__RULE", rule)]).await;
    let mut page = Browser::start();
    page.open(&cluster.url("/dashboard")).await;
    page.until_text("#no-alarms", "No alarm").await;
    let clients = cluster.clients(8, "").await;
    let alarm = "#alarm-list [data-alarm^=connections_high]";
    page.until(&format!("document.querySelector('{alarm}')?.dataset.state === 'firing'")).await;
    page.until_text("#tile-alarms", "1").await;
    // Those who do not see it hear of it.
    page.until("document.querySelector('[role=alert]#announcer').textContent.startsWith('Alarm: ')").await;
    page.click(&format!("{alarm} button")).await;
    page.until_text(&format!("{alarm}.acknowledged"), "acknowledged by").await;
    let told = Sandbox::http(cluster.gateway.address(), "GET", "/api/v1/alarms", "", "").await.json();
    assert!(told["alarms"][0]["acknowledged_at"].is_number(), "{told}");

    // Its log tells a page that comes later, too, whatever the API answered before; to those who listen it is no news.
    let later = json!({"command": "open", "url": cluster.url("/dashboard"), "without": "/api/v1/alarms"});
    page.command(later).await;
    page.until_text(&format!("{alarm}.acknowledged"), "acknowledged by").await;
    assert_eq!(page.evaluate("document.querySelector('#announcer').textContent").await, "");
    drop(clients);
    page.until(&format!("document.querySelector('{alarm}')?.dataset.state === 'resolved'")).await;
    page.until_text("#tile-alarms", "0").await;
    well(&page.misdeeds().await);
}

#[tokio::test]
async fn only_operators_see_anything() {
    let cluster = Cluster::start(&[("TICKMESH_AUTH__ANONYMOUS", "none")]).await;
    // The page itself needs no token, but what it asks for does.
    let page_at = |path| Sandbox::http(cluster.gateway.address(), "GET", path, "", "");
    assert_eq!((page_at("/dashboard").await.status, page_at("/api/v1/cluster").await.status), (200, 401));
    let mut page = Browser::start();
    page.open(&cluster.url("/dashboard")).await;
    page.until(
        "document.querySelector('#signin').checkVisibility() && document.activeElement.id === 'token'",
    )
    .await;
    page.fill("#token", "nonsense").await;
    page.press("Enter").await;
    page.until_text("#signin-problem", "not accepted").await;
    page.fill("#token", &token("ann", "publisher")).await;
    page.press("Enter").await;
    page.until_text("#signin-problem", "ann has the role publisher").await;
    assert_eq!(page.evaluate("document.querySelector('#main').checkVisibility()").await, false);
    page.fill("#token", &token("ann", "operator")).await;
    page.press("Enter").await;
    condition(&mut page, "n1", "up").await;
    page.until_text("#who", "ann").await;
    // It is kept for this tab alone.
    let kept = "Object.values(localStorage).concat(document.cookie).some((one) => one.includes('eyJ'))";
    assert_eq!(page.evaluate(kept).await, false);
    page.click("#sign-out").await;
    page.until("document.querySelector('#signin').checkVisibility()").await;
    well(&page.misdeeds().await);
}

#[tokio::test]
async fn a_session_is_looked_at_and_disconnected() {
    let cluster = Cluster::start(&[("TICKMESH_AUTH__ANONYMOUS", "none")]).await;
    let mut clients = cluster.clients(1, &format!("?token={}", token("bob", "user"))).await;
    let mut bob = clients.remove(0);
    let id = bob.hello["session_id"].as_str().expect("it has an id").to_owned();
    let mut page = Browser::start();
    page.open(&cluster.url("/dashboard")).await;
    page.fill("#token", &token("ann", "operator")).await;
    page.press("Enter").await;
    page.command(json!({"command": "focus", "selector": "#session-filter"})).await;
    page.fill("#session-filter", "bob").await;
    page.until(&format!("document.querySelectorAll('#session-rows tr').length === 1 && document.querySelector('#session-rows tr').dataset.id === '{id}'")).await;
    page.click("#session-rows button").await;
    for told in ["bob", "market_ACME", "Round trip", "Queue", bob.hello["node_id"].as_str().unwrap_or("?")] {
        page.until_text("#details-body", told).await;
    }
    page.click("#details-act").await;
    page.until_text("#confirm-text", "bob").await;
    page.click("#confirm-yes").await;
    assert_eq!(bob.closed().await, 4005);
    page.until("document.querySelectorAll('#session-rows tr').length === 0").await;
    well(&page.misdeeds().await);
}

#[tokio::test]
async fn quotes_and_bars_go_on_after_the_connection_is_cut() {
    let cluster = Cluster::start(&[]).await;
    cluster.publish("market_ACME", json!({"bid_price": 9.5, "ask_price": 10.5, "exchange": "X"})).await;
    let mut page = Browser::start();
    page.open(&cluster.url("/")).await;
    page.until_text("#quotes tr[data-symbol=ACME]", "9.5").await;
    page.until_text("#hero-symbol", "ACME").await;
    page.click("#cut").await;
    page.until("document.querySelector('#state').className === 'lost'").await;
    for price in [11.0, 12.0, 13.25] {
        cluster.publish("market_ACME", json!({"price": price})).await;
    }
    page.until_text("#state", "recovered without a gap").await;
    page.until_text("#quotes tr[data-symbol=ACME]", "13.25").await;
    page.until("document.querySelector('#reconnects').textContent === '1'").await;
    assert_eq!(page.evaluate("document.querySelector('#lost').textContent").await, "0");
    // The dashboard is one click away, and in Chinese as well.
    page.until("document.querySelector('#dashboard-link').checkVisibility()").await;
    page.command(json!({"command": "select", "selector": "#language", "value": "zh"})).await;
    page.until_text("h1", "实时行情").await;
    well(&page.misdeeds().await);
}

#[tokio::test]
async fn nobody_is_kept_out() {
    let cluster = Cluster::start(&[]).await;
    let _clients = cluster.clients(2, "").await;
    for n in 0..30 {
        cluster.publish("market_ACME", json!({"price": 10.0 + f64::from(n) / 8.0, "exchange": "X"})).await;
    }
    let mut page = Browser::start();
    for (path, ready) in [("/dashboard", "#member-rows tr"), ("/", "#quotes tr")] {
        for (dark, width) in [(false, 1280), (true, 1280), (false, 360), (true, 360)] {
            let url = cluster.url(path);
            page.command(json!({"command": "open", "url": url, "dark": dark, "width": width})).await;
            page.until(&format!("document.querySelector('{ready}') !== null && document.querySelector('#state').className === 'connected'")).await;
            if path == "/dashboard" {
                // Sessions are asked for when they come into sight.
                page.command(json!({"command": "focus", "selector": "#session-filter"})).await;
                page.until("document.querySelector('#session-rows tr') !== null").await;
            }
            assert_eq!(page.barriers().await, json!([]), "{path}, dark {dark}, {width} pixels wide");
            // What is wider scrolls within its own frame.
            assert_eq!(
                page.evaluate("document.documentElement.scrollWidth <= innerWidth").await,
                true,
                "{path} at {width}"
            );
            well(&page.misdeeds().await);
        }
    }
}

#[tokio::test]
async fn fifty_nodes_and_a_thousand_sessions_do_not_freeze_it() {
    let cluster = Cluster::start(&[]).await;
    let mut page = Browser::start();
    let crowd = json!({"nodes": 50, "gateways": 3, "sessions": 1_000});
    page.command(json!({"command": "open", "url": cluster.url("/dashboard"), "crowd": crowd})).await;
    page.until("document.querySelectorAll('#map .process').length === 53 && document.querySelectorAll('#member-rows tr').length === 53").await;
    page.command(json!({"command": "focus", "selector": "#session-filter"})).await;
    page.until("document.querySelectorAll('#session-rows tr').length === 25").await;
    page.until_text("#session-note", "1,000").await;
    page.click("#session-next").await;
    page.until_text("#session-page", "2 of 40").await;
    // What processes say of themselves is drawn at the next second; until then there is what their leases say.
    page.until("document.querySelectorAll('#room-rows tr').length > 0").await;
    let before = page.evaluate("document.documentElement.scrollHeight").await;
    let longest = page.command(json!({"command": "busiest", "ms": 6_000})).await;
    // On this machine others work, too; half a second is when people wonder.
    assert!(longest.as_f64().is_some_and(|longest| longest < 500.0), "{longest} ms");
    assert_eq!(page.evaluate("document.documentElement.scrollHeight").await, before, "nothing jumps");
    well(&page.misdeeds().await);
}

#[tokio::test]
async fn pages_are_kept_by_browsers_until_they_change_and_may_be_left_out() {
    let cluster = Cluster::start(&[]).await;
    let get = |path: &'static str, headers: String| {
        let address = cluster.gateway.address();
        async move { Sandbox::http(address, "GET", path, &headers, "").await }
    };
    for path in ["/dashboard", "/dashboard.js", "/dashboard.css", "/", "/app.js", "/app.css"] {
        let answer = get(path, String::new()).await;
        let head = answer.head.to_lowercase();
        assert_eq!(answer.status, 200, "{path}: {head}");
        for wanted in [
            "default-src 'none'",
            "script-src 'self'",
            "frame-ancestors 'none'",
            "cache-control: no-cache",
            "nosniff",
        ] {
            assert!(head.contains(wanted), "{path}: {head}");
        }
        assert!(!head.contains("unsafe-"), "{path}: {head}");
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).expect("it has a tag").to_owned();
        let again = get(path, format!("If-None-Match: {tag}\r\n")).await;
        assert_eq!((again.status, again.body.as_str()), (304, ""), "{path}");
        for (mark, other) in
            [("http://", "http://www.w3.org/"), ("https://", "https://github.com/leeoniya/uPlot")]
        {
            // Names of standards and of the licence's home, which nobody asks for.
            let named = answer
                .body
                .match_indices(mark)
                .filter(|(at, _)| !answer.body[*at..].starts_with(other))
                .count();
            assert_eq!(named, 0, "{path} names another host");
        }
    }
    let server = RedisServer::start();
    let without = NodeProcess::gateway("g9", &server.url(), &[("TICKMESH_DASHBOARD__ENABLED", "false")]);
    for path in ["/dashboard", "/dashboard.js", "/"] {
        assert_eq!(Sandbox::http(without.address(), "GET", path, "", "").await.status, 404, "{path}");
    }
}
