//! Arbitrary bytes into every decoder: frames whole and in pieces, JSON, MessagePack, publishes. Nothing may panic,
//! and cutting the stream anywhere must not change what is understood.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tickmesh_protocol::frame::Assembler;
use tickmesh_protocol::message::{ClientMessage, Publish, json_from_msgpack};

fn assemble(bytes: &[u8], cut: usize) -> (Vec<String>, bool) {
    let mut assembler = Assembler::new(1_024);
    let mut seen = Vec::new();
    let mut failed = false;
    for part in [&bytes[..cut], &bytes[cut..]] {
        let mut part = part.to_vec();
        let fed = assembler.feed(&mut part, |message| {
            seen.push(format!("{message:?}"));
            true
        });
        assert!(assembler.held_bytes() <= 2 * bytes.len() + 2_048);
        if fed.is_err() {
            failed = true;
            break;
        }
    }
    (seen, failed)
}

fuzz_target!(|bytes: &[u8]| {
    let cut = bytes.first().map_or(0, |first| usize::from(*first) % (bytes.len() + 1));
    assert_eq!(assemble(bytes, 0), assemble(bytes, cut));
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = ClientMessage::parse(text);
        let _ = Publish::parse(text);
    }
    if let Ok(json) = json_from_msgpack(bytes) {
        let _ = ClientMessage::parse(&json);
    }
});
