use proptest::prelude::*;

use super::*;

fn collect(assembler: &mut Assembler, input: &mut [u8]) -> Result<Vec<String>, FrameError> {
    let mut seen = Vec::new();
    assembler.feed(input, |message| {
        seen.push(format!("{message:?}"));
        true
    })?;
    Ok(seen)
}

fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_masked(&mut out, Opcode::Text, payload, [1, 2, 3, 4]);
    out[0] = first;
    out.to_vec()
}

#[test]
fn fragments_are_joined_around_a_ping() {
    let mut bytes = masked(0x01, b"hel");
    bytes.extend(masked(0x89, b"p"));
    bytes.extend(masked(0x80, b"lo"));
    let seen = collect(&mut Assembler::new(100), &mut bytes).unwrap();
    assert_eq!(seen, ["Ping([112])", "Text(\"hello\")"]);
}

#[test]
fn every_breach_has_its_error() {
    use FrameError as E;
    let cases: [(Vec<u8>, FrameError); 12] = [
        (masked(0xC1, b"x"), E::ReservedBits),
        (masked(0x83, b"x"), E::UnknownOpcode(3)),
        (vec![0x81, 1, b'x'], E::Unmasked),
        (masked(0x09, b"x"), E::BadControl),
        (masked(0x89, &[0; 126]), E::BadControl),
        (masked(0x80, b"x"), E::BadFragment),
        ([masked(0x01, b"x"), masked(0x81, b"x")].concat(), E::BadFragment),
        (masked(0x88, b"x"), E::BadClose),
        (masked(0x88, &1005u16.to_be_bytes()), E::BadClose),
        (masked(0x81, b"\xff"), E::NotUtf8),
        (masked(0x81, &[b'x'; 101]), E::TooBig { limit: 100 }),
        ([masked(0x01, &[b'x'; 60]), masked(0x80, &[b'x'; 60])].concat(), E::TooBig { limit: 100 }),
    ];
    for (mut bytes, expected) in cases {
        assert_eq!(collect(&mut Assembler::new(100), &mut bytes), Err(expected), "{bytes:?}");
    }
}

#[test]
fn a_huge_length_is_refused_by_its_header() {
    let mut bytes = vec![0x82, 0xFF, 0, 0, 0, 0x10, 0, 0, 0, 0, 1, 2, 3, 4];
    let mut assembler = Assembler::new(100);
    assert_eq!(collect(&mut assembler, &mut bytes), Err(FrameError::TooBig { limit: 100 }));
    assert!(assembler.held_bytes() < 100);
}

proptest! {
    #[test]
    fn any_split_of_the_stream_gives_the_same_messages(
        messages in prop::collection::vec(".{0,200}", 1..8),
        cuts in prop::collection::vec(1usize..50, 1..40),
    ) {
        let mut wire = BytesMut::new();
        for message in &messages {
            put_masked(&mut wire, Opcode::Text, message.as_bytes(), [9, 8, 7, 6]);
        }
        let mut assembler = Assembler::new(1000);
        let mut seen = Vec::new();
        let mut cuts = cuts.into_iter().cycle();
        while !wire.is_empty() {
            let n = cuts.next().unwrap_or(1).min(wire.len());
            let mut part = wire.split_to(n);
            assembler.feed(&mut part, |m| {
                if let Incoming::Text(text) = m { seen.push(text.to_owned()); }
                true
            }).unwrap();
        }
        prop_assert_eq!(seen, messages);
        prop_assert!(!assembler.has_rest());
    }

    #[test]
    fn an_early_stop_loses_nothing(count in 1usize..20) {
        let mut wire = BytesMut::new();
        for n in 0..count {
            put_masked(&mut wire, Opcode::Text, n.to_string().as_bytes(), [9, 8, 7, 6]);
        }
        let mut assembler = Assembler::new(1000);
        let mut seen = 0;
        assembler.feed(&mut wire, |_| { seen += 1; false }).unwrap();
        for _ in 1..count {
            assembler.feed(&mut [], |_| { seen += 1; false }).unwrap();
        }
        prop_assert_eq!(seen, count);
        prop_assert!(!assembler.has_rest());
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Assembler::new(64).feed(&mut bytes, |_| true);
    }
}
