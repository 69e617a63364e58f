//! Finds the few fields that the measurement needs in a message, mostly without parsing it.

use std::borrow::Cow;
use std::cell::RefCell;

use memchr::memmem::Finder;
use serde::Deserialize;
use serde_json::value::RawValue;

/// A room's message, as far as it matters here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tick {
    pub(crate) seq: u64,
    /// How many older ones it replaces.
    pub(crate) conflated: u64,
    /// When this run meant to send it, on its own clock; `None` for messages of other publishers.
    pub(crate) sent_ns: Option<u64>,
    /// The publisher's time in UTC milliseconds; `None` where it was not looked for.
    pub(crate) timestamp_ms: Option<u64>,
}

/// A message of the server in full, as far as it matters here.
#[derive(Debug, Deserialize)]
pub(crate) struct Envelope<'a> {
    /// Events of Socket.IO have none.
    #[serde(rename = "type", borrow, default = "notification")]
    pub(crate) kind: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) request_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) room: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) event: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) error_code: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(crate) seq: u64,
    #[serde(default)]
    conflated: u64,
    #[serde(default)]
    timestamp: Option<u64>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

fn notification() -> Cow<'static, str> {
    Cow::Borrowed("notification")
}

/// The fields that the measurement uses out of any `data`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Data {
    #[serde(default)]
    sent_ns: Option<u64>,
    /// Of the response to `subscribe` or `publish`, or of a `resync`.
    #[serde(default)]
    pub(crate) seq: Option<u64>,
}

/// Where a message that was published stands in its room's log.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Position<'a> {
    pub(crate) seq: u64,
    #[serde(borrow)]
    pub(crate) epoch: Cow<'a, str>,
}

impl Envelope<'_> {
    /// `data`, where it is that of the response to `publish`.
    pub(crate) fn position(&self) -> Option<Position<'_>> {
        self.data.and_then(|raw| serde_json::from_str(raw.get()).ok())
    }

    /// `data`, where it is of this kind.
    pub(crate) fn data_as<T: serde::de::DeserializeOwned>(&self) -> Option<T> {
        self.data.and_then(|raw| serde_json::from_str(raw.get()).ok())
    }

    /// `data`, where it is an object of the kind that is looked for.
    pub(crate) fn data(&self) -> Data {
        self.data.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
    }
}

/// One message of a frame.
#[derive(Debug)]
pub(crate) enum Item<'a> {
    /// A message of a room.
    Tick(Tick),
    /// Anything else: responses, errors, `connected`, `resync`.
    Other(&'a Envelope<'a>),
}

/// The searchers, built once per run.
#[derive(Debug)]
pub(crate) struct Scanner {
    seq: Finder<'static>,
    epoch: Finder<'static>,
    sent_ns: Finder<'static>,
    conflated: Finder<'static>,
    request_id: Finder<'static>,
    success: Finder<'static>,
    /// Messages of the array at hand.
    ticks: RefCell<Vec<Tick>>,
}

impl Scanner {
    pub(crate) fn new() -> Self {
        Self {
            seq: Finder::new(br#""seq":"#),
            epoch: Finder::new(br#""epoch":""#),
            sent_ns: Finder::new(br#""sent_ns":"#),
            conflated: Finder::new(br#""conflated":"#),
            request_id: Finder::new(br#""request_id":""#),
            success: Finder::new(br#""success":true"#),
            ticks: RefCell::default(),
        }
    }

    /// Finds the fields of messages that this run published: nothing in them but the message itself has a key `seq`,
    /// so it is enough to look for it. Anything else, and whatever is not certain, is parsed.
    pub(crate) fn scan(&self, text: &[u8], mut each: impl FnMut(Item<'_>)) -> Result<(), serde_json::Error> {
        match text.first() {
            Some(b'{') => match self.single(text) {
                Some(tick) => {
                    each(Item::Tick(tick));
                    Ok(())
                }
                None => parse(text, each),
            },
            Some(b'[') => {
                let mut ticks = self.ticks.borrow_mut();
                if self.pairs(text, &mut ticks).is_some() {
                    ticks.iter().for_each(|tick| each(Item::Tick(*tick)));
                    Ok(())
                } else {
                    parse(text, each)
                }
            }
            _ => parse(text, each),
        }
    }

    fn single(&self, text: &[u8]) -> Option<Tick> {
        let (sent_ns, _) = number_after(&self.sent_ns, text)?;
        let (seq, _) = number_after(&self.seq, text)?;
        let conflated = match self.conflated.find(text) {
            Some(at) => number(text, at + self.conflated.needle().len())?.0,
            None => 0,
        };
        Some(Tick { seq, conflated, sent_ns: Some(sent_ns), timestamp_ms: None })
    }

    /// The messages of an array, if the n-th `seq` certainly belongs to the n-th `sent_ns`.
    fn pairs(&self, text: &[u8], ticks: &mut Vec<Tick>) -> Option<()> {
        ticks.clear();
        if self.conflated.find(text).is_some() {
            return None;
        }
        let (mut seq_at, mut sent_at) = (0, 0);
        loop {
            match (self.seq.find(&text[seq_at..]), self.sent_ns.find(&text[sent_at..])) {
                (Some(a), Some(b)) => {
                    let (seq, seq_end) = number(text, seq_at + a + self.seq.needle().len())?;
                    let (sent_ns, sent_end) = number(text, sent_at + b + self.sent_ns.needle().len())?;
                    (seq_at, sent_at) = (seq_end, sent_end);
                    ticks.push(Tick { seq, sent_ns: Some(sent_ns), ..Tick::default() });
                }
                (None, None) => return Some(()),
                _ => return None,
            }
        }
    }

    /// The `request_id` of a successful response, if that is what `text` certainly is.
    pub(crate) fn success_id<'a>(&self, text: &'a [u8]) -> Option<&'a [u8]> {
        let at = self.request_id.find(text)? + self.request_id.needle().len();
        let end = at + memchr::memchr(b'"', &text[at..])?;
        self.success.find(text).map(|_| &text[at..end])
    }

    /// The first `seq` in a response to `publish`.
    pub(crate) fn response_seq(&self, text: &[u8]) -> Option<u64> {
        number_after(&self.seq, text).map(|(seq, _)| seq)
    }

    /// The first `seq` and `epoch` in a response to `publish`. An epoch with escapes is left to the parser: two
    /// spellings must not count as two epochs.
    pub(crate) fn response_position<'a>(&self, text: &'a [u8]) -> Option<Position<'a>> {
        let seq = self.response_seq(text)?;
        let at = self.epoch.find(text)? + self.epoch.needle().len();
        let end = at + memchr::memchr(b'"', &text[at..])?;
        let epoch = std::str::from_utf8(&text[at..end]).ok().filter(|epoch| !epoch.contains('\\'))?;
        Some(Position { seq, epoch: Cow::Borrowed(epoch) })
    }
}

/// Parses a frame of any publisher's messages, or of anything else.
pub(crate) fn parse(text: &[u8], mut each: impl FnMut(Item<'_>)) -> Result<(), serde_json::Error> {
    if text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        for envelope in serde_json::from_slice::<Vec<Envelope<'_>>>(text)? {
            each(classify(&envelope));
        }
    } else {
        each(classify(&serde_json::from_slice(text)?));
    }
    Ok(())
}

fn classify<'a>(envelope: &'a Envelope<'a>) -> Item<'a> {
    let of_room = envelope.kind == "notification" && !envelope.room.is_empty() && envelope.event != "resync";
    if !of_room || envelope.seq == 0 {
        return Item::Other(envelope);
    }
    Item::Tick(Tick {
        seq: envelope.seq,
        conflated: envelope.conflated,
        sent_ns: envelope.data().sent_ns,
        timestamp_ms: envelope.timestamp,
    })
}

/// The unsigned number after the first occurrence of a key, and where it ends.
fn number_after(key: &Finder<'_>, text: &[u8]) -> Option<(u64, usize)> {
    number(text, key.find(text)? + key.needle().len())
}

/// The unsigned number at a position, and where it ends.
fn number(text: &[u8], mut at: usize) -> Option<(u64, usize)> {
    while text.get(at) == Some(&b' ') {
        at += 1;
    }
    let first = at;
    let mut value = 0u64;
    while let Some(digit) = text.get(at).filter(|byte| byte.is_ascii_digit()) {
        value = value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
        at += 1;
    }
    (at > first).then_some((value, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(text: &str) -> Vec<(u64, u64, Option<u64>)> {
        let mut seen = Vec::new();
        Scanner::new()
            .scan(text.as_bytes(), |item| match item {
                Item::Tick(tick) => seen.push((tick.seq, tick.conflated, tick.sent_ns)),
                Item::Other(envelope) => panic!("not a tick: {envelope:?}"),
            })
            .unwrap();
        seen
    }

    #[test]
    fn fields_are_found_in_any_order() {
        let first =
            r#"{"type":"notification","room":"r","event":"tick","seq":42,"data":{"sent_ns":7,"pad":"x"}}"#;
        let last =
            r#"{"data":{"pad":"x","sent_ns": 7},"type":"notification","room":"r","conflated": 3,"seq": 42}"#;
        assert_eq!(ticks(first), [(42, 0, Some(7))]);
        assert_eq!(ticks(last), [(42, 3, Some(7))]);
        let appended = first.strip_suffix('}').unwrap().to_owned() + r#","conflated":9}"#;
        assert_eq!(ticks(&appended), [(42, 9, Some(7))]);
    }

    #[test]
    fn arrays_with_and_without_conflation() {
        let one = r#"{"type":"notification","room":"r","event":"tick","seq":1,"data":{"sent_ns":7}}"#;
        let two = r#"{"type":"notification","room":"r","event":"tick","seq":2,"data":{"sent_ns":8}}"#;
        assert_eq!(ticks(&format!("[{one},{two}]")), [(1, 0, Some(7)), (2, 0, Some(8))]);
        let three =
            r#"{"type":"notification","room":"r","event":"tick","seq":5,"conflated":2,"data":{"sent_ns":9}}"#;
        assert_eq!(ticks(&format!("[{one},{three}]")), [(1, 0, Some(7)), (5, 2, Some(9))]);
    }

    #[test]
    fn an_array_whose_numbers_do_not_pair_up_is_parsed() {
        let ours = r#"{"type":"notification","room":"r","event":"t","seq":1,"data":{"sent_ns":7}}"#;
        let foreign = r#"{"type":"notification","room":"r","event":"t","seq":2,"data":{"seq":99}}"#;
        assert_eq!(ticks(&format!("[{foreign},{ours}]")), [(2, 0, None), (1, 0, Some(7))]);
    }

    #[test]
    fn a_foreign_message_is_parsed_not_guessed() {
        let text = r#"{"data":{"seq":99,"sent":"\"sent_ns\":5"},"type":"notification","room":"r","event":"t","seq":2}"#;
        assert_eq!(ticks(text), [(2, 0, None)]);
    }

    #[test]
    fn other_messages_are_told_apart() {
        let texts = [
            r#"{"type":"response","request_id":"s","success":true,"data":{"seq":41,"messages":[]}}"#,
            r#"{"type":"notification","room":"","event":"connected","data":{"session_id":"a"},"seq":0}"#,
            r#"{"type":"notification","room":"r","event":"resync","data":{"epoch":"e","seq":41},"seq":41}"#,
            r#"{"type":"error","request_id":null,"error_code":"RATE_LIMIT_EXCEEDED","error_message":"x"}"#,
        ];
        for text in texts {
            let mut other = 0;
            let count = |item: Item<'_>| other += u32::from(matches!(item, Item::Other(_)));
            Scanner::new().scan(text.as_bytes(), count).unwrap();
            assert_eq!(other, 1, "{text}");
        }
        assert!(Scanner::new().scan(b"{", |_| {}).is_err());
    }

    #[test]
    fn only_a_success_has_a_success_id() {
        let scanner = Scanner::new();
        let good = br#"{"type":"response","request_id":"3-17","success":true,"data":{"seq":5,"epoch":"e"}}"#;
        assert_eq!(scanner.success_id(good), Some(b"3-17".as_slice()));
        assert_eq!(scanner.response_seq(good), Some(5));
        assert_eq!(scanner.response_position(good), Some(Position { seq: 5, epoch: "e".into() }));
        assert_eq!(scanner.response_position(br#"{"data":{"seq":5,"epoch":"\u0065"}}"#), None);
        assert_eq!(scanner.success_id(br#"{"type":"error","request_id":"3-17","error_code":"X"}"#), None);
    }
}
