//! The pages, used in a browser against real gateways and nodes: what the dashboard shows is what the processes count, its buttons do
//! what they say, it survives the node behind it, and nothing on it needs another host or keeps anybody out.

use std::time::Duration;

use serde_json::json;
use tickmesh_tests::{
    Browser, DEADLINE, NodeProcess, PageCluster as Cluster, RedisServer, Sandbox, eventually, token,
};
use tokio::time::{Instant, sleep};

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
    page.is_well().await;
}

#[tokio::test]
async fn a_node_is_drained_and_resumed_after_a_question() {
    let cluster = Cluster::start(&[]).await;
    let _clients = cluster.clients(6, "").await;
    let mut page = Browser::start();
    page.open(&cluster.url("/dashboard")).await;
    condition(&mut page, "n1", "up").await;
    condition(&mut page, "n2", "up").await;
    let button = format!("{} [data-act=change]", row("n1"));

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
    page.is_well().await;
}

/// Notes, in the page, whether it ever shows a process as lost, and whether the cluster had told so by then.
const LOOKOUT: &str = r"
    window.seen = {};
    new MutationObserver(() => {
        for (const { dataset: { id } } of document.querySelectorAll('#map .process.lost')) {
            window.seen[id] ??= document.querySelector(`#event-list li[data-event$=_lost][data-id='${id}']`) !== null;
        }
    }).observe(document.body, { subtree: true, childList: true, attributes: true });
";

#[tokio::test]
async fn a_node_that_dies_is_shown_as_lost_at_once_and_counts_no_more() {
    let mut cluster = Cluster::start(&[]).await;
    let _clients = cluster.clients(9, "").await;
    let mut page = Browser::start();
    page.open(&cluster.url("/dashboard")).await;
    condition(&mut page, "n1", "up").await;
    condition(&mut page, "n2", "up").await;
    page.until_text("#tile-nodes-note", "all up").await;
    page.until("/^n[12]$/.test(document.querySelector('#via-node').textContent)").await;
    page.evaluate(LOOKOUT).await;
    let behind = page.evaluate("document.querySelector('#via-node').textContent").await;
    let (dying, other) = if behind == "n1" { ("n1", "n2") } else { ("n2", "n1") };
    cluster.nodes.iter_mut().filter(|node| node.id() == dying).for_each(NodeProcess::kill);
    condition(&mut page, dying, "lost").await;
    page.until_text("#tile-nodes-note", "1 of 2 up, 1 lost").await;
    // Nothing that it counted is in a figure, and the page's own session is where it lives on.
    page.until(&format!("document.querySelector('{} td:nth-child(4)').textContent === '–'", row(dying)))
        .await;
    page.until("document.querySelector('#tile-connections').textContent === '10'").await;
    page.until(&format!("document.querySelector('{} td:nth-child(4)').textContent === '10'", row(other)))
        .await;
    page.until_text("#via-node", other).await;
    page.until_text("#event-list li[data-event=node_lost]", dying).await;
    assert_eq!(page.evaluate(&format!("window.seen.{dying}")).await, false, "before the cluster gave it up");
    // It stays, until it is back.
    page.until_text("#alarm-list .alarm", dying).await;
    condition(&mut page, dying, "lost").await;
    let _back = NodeProcess::start(dying, &cluster.server.url(), &[]);
    condition(&mut page, dying, "up").await;
    page.until_text("#tile-nodes-note", "all up").await;
    // It is the same connection all the time, and it goes on.
    assert_eq!(page.sockets().await, json!(1));
    assert_eq!(page.evaluate("document.querySelector('#state').className").await, "connected");
    page.is_well().await;
}

#[tokio::test]
async fn who_leaves_in_order_is_not_lost_and_who_is_lost_can_be_dismissed() {
    let mut cluster = Cluster::start(&[]).await;
    let mut third = NodeProcess::start("n3", &cluster.server.url(), &[]);
    let mut page = Browser::start();
    page.open(&cluster.url("/dashboard")).await;
    for id in ["n1", "n2", "n3"] {
        condition(&mut page, id, "up").await;
    }
    page.evaluate(LOOKOUT).await;
    third.signal("-TERM");
    third.ended().await;
    page.until_text("#event-list li[data-event=node_left]", "n3").await;
    page.until(&format!("document.querySelector('{}') === null", box_of("n3"))).await;
    cluster.nodes[1].kill();
    condition(&mut page, "n2", "lost").await;
    assert_eq!(page.evaluate("'n3' in window.seen").await, false);
    page.until_text(&format!("{} button", row("n2")), "Dismiss").await;
    page.click(&format!("{} [data-act=change]", row("n2"))).await;
    let gone = format!("document.querySelector('{}') === null", box_of("n2"));
    page.until(&gone).await;
    page.until_text("#tile-nodes-note", "all up").await;
    // That the cluster tells it later changes nothing.
    page.until_text("#event-list li[data-event=node_lost]", "n2").await;
    page.until_text("#alarm-list .alarm", "n2").await;
    assert_eq!(page.evaluate(&gone).await, true);
    page.is_well().await;
}

#[tokio::test]
async fn of_the_last_node_it_is_said_that_nobody_can_connect_and_that_is_so() {
    let cluster = Cluster::start(&[]).await;
    let mut page = Browser::start();
    page.open(&cluster.url("/dashboard")).await;
    for (id, told, not_told) in [
        ("n1", "accepts no new sessions", "last node"),
        ("n2", "last node that accepts clients", "without being"),
    ] {
        condition(&mut page, id, "up").await;
        page.click(&format!("{} [data-act=change]", row(id))).await;
        page.until_text("#confirm-text", told).await;
        let script = format!("document.querySelector('#confirm-text').textContent.includes('{not_told}')");
        assert_eq!(page.evaluate(&script).await, false, "{id}: {not_told}");
        page.click("#confirm-yes").await;
        condition(&mut page, id, "draining").await;
    }
    // Sessions stay, and go on.
    page.until_text("#toast", "Node n2 is draining").await;
    page.click(&format!("{} [data-act=change]", row("n2"))).await;
    page.click("#confirm-yes").await;
    condition(&mut page, "n2", "up").await;
    assert_eq!(page.sockets().await, json!(1));
    page.is_well().await;
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
    condition(&mut page, "g1", "lost").await;
    page.is_well().await;
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
    // Whether others fire, the API would have to say.
    page.until_text("#tile-alarms", "–").await;
    page.until_text("#problem", "Alarms are unavailable: the server does not answer").await;
    page.open(&cluster.url("/dashboard")).await;
    page.until_text("#tile-alarms", "0").await;
    page.until_text("#tile-alarms-note", "all quiet").await;
    page.is_well().await;
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
    page.is_well().await;
}

#[tokio::test]
async fn who_is_not_let_in_sees_no_figures() {
    let cluster = Cluster::start(&[]).await;
    let mut page = Browser::start();
    let figures = "[...document.querySelectorAll('.tiles b')].every((tile) => tile.textContent === '–')";
    let quiet = "/all quiet|no alarms|all up|nobody|no rooms|no process/i.test(document.body.innerText)";
    for (shut, said, words) in [("refused", "#signin-problem", "Sign in"), ("away", "#problem", "No data")] {
        let crowd = json!({"nodes": 2, "gateways": 1, "sessions": 0, "shut": shut});
        page.command(json!({"command": "open", "url": cluster.url("/dashboard"), "crowd": crowd})).await;
        page.until_text(said, words).await;
        assert_eq!(page.evaluate(figures).await, true, "{shut}: no figures");
        assert_eq!(page.evaluate(quiet).await, false, "{shut}: nothing is said to be well");
        let main = "document.querySelector('#main').checkVisibility()";
        assert_eq!(page.evaluate(main).await, shut == "away", "{shut}");
    }
    page.is_well().await;
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
    page.is_well().await;
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
            page.is_well().await;
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
    let work = page.command(json!({"command": "work", "draws": 5})).await;
    // Elements are kept, and only what has another text or place is written.
    assert_eq!(work["made"], 0, "{work}");
    assert!(work["changes"].as_u64() < Some(5 * 500), "{work}");
    assert_eq!(page.evaluate("document.documentElement.scrollHeight").await, before, "nothing jumps");
    page.is_well().await;
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
