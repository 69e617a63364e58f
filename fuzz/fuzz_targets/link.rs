//! Links that say anything, in both directions, and a relay between them: it must refuse or go on, and stay bounded.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tickmesh_protocol::encode::Encoding;
use tickmesh_protocol::link::{Open, Records, VERSION};
use tickmesh_protocol::relay::Relay;

fuzz_target!(|bytes: &[u8]| {
    let open = Open {
        version: VERSION,
        session_id: "s".into(),
        encoding: Encoding::Json,
        batch: false,
        max_bandwidth: 0,
        token: None,
        remote: String::new(),
        socketio: None,
    };
    let _ = Records::default().feed_node(bytes, |_| true);
    let mut relay = Relay::new(open, 1_024);
    let (mut to_node, mut to_client) = (BytesMut::new(), BytesMut::new());
    relay.attach(&mut to_node);
    let mut records = Records::default();
    for part in bytes.chunks(64) {
        let _ = relay.handle_client(part, &mut to_node);
        let fed = records.feed_gateway(part, |record| {
            let _ = relay.handle_node(record, &mut to_client);
            true
        });
        if fed.is_err() {
            relay.detach();
            records = Records::default();
            relay.attach(&mut to_node);
        }
        to_node.clear();
        to_client.clear();
    }
});
