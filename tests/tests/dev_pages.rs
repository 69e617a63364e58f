//! What a stranger sees first: the pages of `tickmesh dev`, with its demo feed. And what counts as a fault of a page.

use tickmesh_tests::{Browser, Dev, NodeProcess, RedisServer};

#[tokio::test]
async fn the_demo_counts_and_one_process_is_told_once() {
    let dev = Dev::start(&[]);
    let mut page = Browser::start();
    page.open(&dev.url("/dashboard")).await;
    page.until("document.querySelectorAll('#member-rows tr').length === 3").await;
    page.until("Number(document.querySelector('#tile-published').textContent) > 0").await;
    // Gateway and nodes are one process, whose CPU and memory are shown once: in the table, and on the map.
    let once = "(cells) => cells.filter((cell) => /%|B$/.test(cell)).length === 1 && cells.filter((cell) => cell === 'in dev-gateway').length === 2";
    for column in [5, 6] {
        let cells = format!(
            "[...document.querySelectorAll('#member-rows td:nth-child({column})')].map((cell) => cell.textContent)"
        );
        page.until(&format!("({once})({cells})")).await;
    }
    let labels = "[...document.querySelectorAll('#map .process')].map((box) => box.textContent)";
    page.until(&format!("{labels}.filter((text) => text.includes('CPU')).length === 1")).await;
    page.until(&format!(
        "{labels}.filter((text) => text.includes('same process asdev-gateway')).length === 2"
    ))
    .await;
    page.until_text("#one-process", "dev-gateway, dev-1 and dev-2 run in one process").await;
    // With the market page open something is delivered that can be timed, though that page wants no more than it can show.
    page.evaluate("window.open('.', '_blank') !== null").await;
    page.until("/ms$/.test(document.querySelector('#tile-p99').textContent)").await;
    page.until("document.querySelector('#tile-p99-note').textContent === 'slowest node'").await;
    page.is_well().await;
}

#[tokio::test]
async fn a_server_that_is_away_is_no_fault_of_a_page_and_its_own_errors_are() {
    let server = RedisServer::start();
    let _node = NodeProcess::start("n1", &server.url(), &[]);
    let mut gateway = NodeProcess::run(&["gateway", "--page"], "g1", &server.url(), &[]);
    gateway.places_sessions_on(1).await;
    let mut page = Browser::start();
    page.open(&format!("http://{}/", gateway.address())).await;
    page.until("document.querySelector('#state').className === 'connected'").await;
    gateway.kill();
    let refused = "new Promise((resolve) => { new WebSocket(new URL('ws', location.href.replace('http', 'ws'))).onclose = () => resolve(true); })";
    assert_eq!(page.evaluate(refused).await, true);
    assert_eq!(page.evaluate("fetch('api/v1/me').then(() => false, () => true)").await, true);
    page.is_well().await;
    page.evaluate("console.error('one'); setTimeout(() => { throw new Error('two'); }); document.body.setAttribute('style', 'color: red')")
        .await;
    let all = ["one", "Error: two", "Content Security Policy"];
    let end = tokio::time::Instant::now() + tickmesh_tests::DEADLINE;
    loop {
        let told = page.misdeeds().await.to_string();
        if all.iter().all(|one| told.contains(one)) {
            break;
        }
        assert!(tokio::time::Instant::now() < end, "{told}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
