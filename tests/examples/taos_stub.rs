//! The stub of taosAdapter on its own, to measure a node against: prints the `tdengine.dsn` for it, and each second the rows
//! that it holds. It is no database: it keeps what is written in memory until it ends.
//!
//! `cargo run --release -p tickmesh-tests --example taos_stub`

use std::time::Duration;

use tickmesh_tests::taos_stub::TaosStub;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let stub = TaosStub::start().await;
    println!("{}", stub.dsn());
    let mut last = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let kept = stub.kept("tick_data");
        if kept != last {
            println!("{kept} ticks, {} in the last second; {} bars", kept - last, stub.kept("minute_kline"));
        }
        last = kept;
    }
}
