//! The market page in a browser: what it says of prices is so for everybody, and while it cannot know them it says that.

use serde_json::{Value, json};
use tickmesh_tests::{Browser, Dev, NodeProcess, PageCluster, Sandbox, publish};

/// A cell of a symbol's row.
fn cell(symbol: &str, class: &str) -> String {
    format!("#quotes tr[data-symbol={symbol}] .{class}")
}

fn text_is(selector: &str, text: &str) -> String {
    format!("document.querySelector('{selector}')?.textContent === '{text}'")
}

/// Publishes prices of a symbol, a millisecond apart, from noon of some day on.
async fn prices(dev: &Dev, symbol: &str, prices: impl Iterator<Item = f64>) {
    const NOON: u64 = 1_700_049_600_000;
    let room = format!("market_{symbol}");
    let message = |(n, price): (u64, f64)| json!({"room": room, "event": "trade", "timestamp": NOON + n, "data": {"price": price}});
    let messages: Vec<Value> = (0..).zip(prices).map(message).collect();
    for batch in messages.chunks(100) {
        let body = json!({ "messages": batch }).to_string();
        let answer = Sandbox::http(dev.address(), "POST", "/api/v1/publish", "", &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[tokio::test]
async fn change_is_measured_from_the_days_open_for_every_viewer() {
    let dev = Dev::start(&["--no-feed"]);
    // More ticks than a page keeps, so that none has seen the first.
    prices(&dev, "UP", [100.0].into_iter().chain((0..300).map(|_| 105.0)).chain([110.0])).await;
    prices(&dev, "FLAT", [100.0, 101.0, 99.997].into_iter()).await;
    prices(&dev, "DOWN", [100.0, 99.0].into_iter()).await;
    let mut page = Browser::start();
    for language in ["en-GB", "zh-CN"] {
        let open = json!({"command": "open", "url": dev.url("/"), "language": language});
        page.command(open).await;
        page.until(&text_is(&cell("UP", "change"), "+10.00 %")).await;
        page.until(&text_is(&cell("DOWN", "change"), "−1.00 %")).await;
        page.until(&text_is(&cell("FLAT", "change"), "0.00 %")).await;
        let classes = "['UP', 'DOWN', 'FLAT'].map((one) => document.querySelector(`#quotes tr[data-symbol=${one}] .change`).className)";
        let classes = page.evaluate(classes).await;
        assert_eq!(classes, json!(["number change up", "number change down", "number change"]));
        // It says from where.
        let (header, hint) =
            if language == "en-GB" { ("Since open", "day's open") } else { ("较开盘", "当日开盘价") };
        page.until_text("thead th.number", header).await;
        let hinted = json!(hint);
        page.until(&format!(
            "[...document.querySelectorAll('th[title]')].some((one) => one.title.includes({hinted}))"
        ))
        .await;
        page.until(&format!("document.querySelector('{}').title.includes('100')", cell("UP", "change")))
            .await;
    }
    page.is_well().await;
}

#[tokio::test]
async fn where_the_days_open_is_not_known_there_is_no_change() {
    // Without a time-series store there are no days.
    let cluster = PageCluster::start(&[]).await;
    for price in [10.0, 11.0, 12.0] {
        cluster.publish("market_ACME", json!({"price": price})).await;
    }
    let mut page = Browser::start();
    page.open(&cluster.url("/")).await;
    page.until_text(&cell("ACME", "price"), "12").await;
    page.until_text("#hero-count", "3 ticks").await;
    page.until(&format!("document.querySelector('{}').title !== ''", cell("ACME", "change"))).await;
    assert_eq!(page.evaluate(&text_is(&cell("ACME", "change"), "–")).await, true);
    assert_eq!(page.evaluate(&text_is("#hero-change", "–")).await, true);
    page.is_well().await;
}

#[tokio::test]
async fn one_tick_is_no_chart() {
    let dev = Dev::start(&["--no-feed"]);
    publish(dev.address(), "market_ONE", json!({"price": 7.25})).await;
    let mut page = Browser::start();
    page.open(&dev.url("/")).await;
    page.until_text("#hero-price", "7.25").await;
    page.click("#mode-ticks").await;
    page.until_text("#chart-empty", "Waiting for more data").await;
    assert_eq!(page.evaluate("document.querySelector('#chart canvas') === null").await, true);
    publish(dev.address(), "market_ONE", json!({"price": 7.5})).await;
    page.until("document.querySelector('#chart canvas') !== null").await;
    page.until("!document.querySelector('#chart-empty').checkVisibility()").await;
    page.is_well().await;
}

#[tokio::test]
async fn prices_that_are_not_live_are_grey_and_say_since_when() {
    let mut cluster = PageCluster::start(&[]).await;
    for price in [10.0, 11.5] {
        cluster.publish("market_ACME", json!({"bid_price": price, "ask_price": price + 1.0})).await;
    }
    let mut page = Browser::start();
    page.open(&cluster.url("/")).await;
    page.until_text(&cell("ACME", "price"), "11.5").await;
    page.until("document.querySelector('#state').className === 'connected'").await;
    assert_eq!(page.evaluate("document.querySelector('#stale').checkVisibility()").await, false);
    let at = cluster.gateway.address();
    cluster.gateway.kill();
    page.until("/as of \\d\\d:\\d\\d:\\d\\d/.test(document.querySelector('#stale').innerText)").await;
    page.until("/as of \\d\\d:\\d\\d:\\d\\d/.test(document.querySelector('#hero').innerText)").await;
    // All prices have the one colour of what is of no importance.
    let colours = "new Set([...document.querySelectorAll('#quotes .price span, #hero-price, .note')].map((one) => getComputedStyle(one).color)).size";
    assert_eq!(page.evaluate(colours).await, 1);
    // What the browser makes of it is nobody's business.
    page.until_text("#state", "retrying").await;
    let raw = "/fetch|net::|ERR_|refused|NetworkError|abort|signal/i.test(document.body.innerText)";
    assert_eq!(page.evaluate(raw).await, false);
    cluster.gateway = NodeProcess::gateway_at(at, "g2", &cluster.server.url());
    page.until("document.querySelector('#state').className === 'connected'").await;
    page.until(
        "!document.querySelector('#stale').checkVisibility() && !document.body.classList.contains('stale')",
    )
    .await;
    page.is_well().await;
}

#[tokio::test]
async fn what_a_browser_says_of_a_failed_request_is_not_shown() {
    let dev = Dev::start(&["--no-feed"]);
    publish(dev.address(), "market_ACME", json!({"price": 7.25})).await;
    let mut page = Browser::start();
    page.command(json!({"command": "open", "url": dev.url("/"), "without": "/api/v1/market/*"})).await;
    page.until_text("#problem", "the server does not answer").await;
    assert_eq!(page.evaluate("/fetch/i.test(document.body.innerText)").await, false);
    page.is_well().await;
}

#[tokio::test]
async fn quotes_go_on_after_the_connection_is_cut() {
    let cluster = PageCluster::start(&[]).await;
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
    page.is_well().await;
}
