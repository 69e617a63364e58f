//! To which trace something belongs, as [W3C Trace Context](https://www.w3.org/TR/trace-context/) writes it.
//!
//! Invariant: what is malformed belongs to no trace, and is never an error: a publisher's mistake about tracing must not
//! cost it its message. It must not know how traces are recorded.

use std::fmt;

/// Bytes of a `traceparent` of version 00.
pub const TRACEPARENT_LEN: usize = 55;

/// A place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Which trace; never 0.
    pub trace_id: u128,
    /// The span that what follows is a part of; 0 where only the trace is known.
    pub parent_id: u64,
    /// Whether the trace is recorded; `None` where that is not decided yet.
    pub sampled: Option<bool>,
}

impl TraceContext {
    /// Reads a `traceparent`: `00-<32 hex>-<16 hex>-<2 hex>`, all lower case. Of later versions the beginning counts, as the
    /// specification wants it (§4.3).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (head, tail) = text.split_at_checked(TRACEPARENT_LEN)?;
        let (version, rest) = head.split_at_checked(2)?;
        let later = version != "00";
        let ends_well = tail.is_empty() || (later && tail.starts_with('-'));
        if hex(version, 2)? == 0xFF || !ends_well {
            return None;
        }
        let mut parts = rest.strip_prefix('-')?.split('-');
        let trace_id = hex(parts.next()?, 32)?;
        let parent_id = hex(parts.next()?, 16)? as u64;
        let flags = hex(parts.next()?, 2)?;
        (trace_id != 0 && parent_id != 0 && parts.next().is_none()).then_some(Self {
            trace_id,
            parent_id,
            sampled: Some(flags & 1 == 1),
        })
    }

    /// Reads the `trace_id` of a client's message: a trace id of 32 hexadecimal digits, or a whole `traceparent`.
    #[must_use]
    pub fn of_message(trace_id: &str) -> Option<Self> {
        if trace_id.len() == TRACEPARENT_LEN {
            return Self::parse(trace_id);
        }
        let trace_id = hex(trace_id, 32).filter(|id| *id != 0)?;
        Some(Self { trace_id, parent_id: 0, sampled: None })
    }
}

/// As a `traceparent`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled == Some(true));
        write!(f, "00-{:032x}-{:016x}-{flags:02x}", self.trace_id, self.parent_id)
    }
}

/// So many lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let good = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (text.len() == digits && text.bytes().all(good)).then(|| u128::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_and_written() {
        let context = TraceContext::parse(GOOD).unwrap();
        assert_eq!(context.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!((context.parent_id, context.sampled), (0x00f0_67aa_0ba9_02b7, Some(true)));
        assert_eq!(context.to_string(), GOOD);
        let unsampled = TraceContext::parse(&GOOD.replace("-01", "-02")).unwrap();
        assert_eq!(unsampled.sampled, Some(false));
        let later = format!("cc{}-what the future holds", &GOOD[2..]);
        assert_eq!(TraceContext::parse(&later), Some(context));
    }

    #[test]
    fn what_is_malformed_is_of_no_trace() {
        for text in [
            "",
            "x",
            &GOOD.to_uppercase(),
            &GOOD.replace("00-", "ff-"),
            &GOOD.replace('-', "_"),
            &GOOD.replace("00f067aa0ba902b7", "0000000000000000"),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", "00000000000000000000000000000000"),
            &format!("{GOOD}-01"),
            &format!("cc{}.", &GOOD[2..]),
            &GOOD[..54],
        ] {
            assert_eq!(TraceContext::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_message_names_a_trace_or_a_place_in_it() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let named = TraceContext::of_message(id).unwrap();
        assert_eq!((named.parent_id, named.sampled), (0, None));
        assert_eq!(TraceContext::of_message(GOOD), TraceContext::parse(GOOD));
        for text in ["", "order 66", &id[1..], &id.to_uppercase(), &"0".repeat(32)] {
            assert_eq!(TraceContext::of_message(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn anything_may_be_said(text: String) {
            let _ = TraceContext::parse(&text);
            let _ = TraceContext::of_message(&text);
        }

        #[test]
        fn what_is_written_is_read(trace_id in 1u128.., parent_id in 1u64.., sampled: bool) {
            let context = TraceContext { trace_id, parent_id, sampled: Some(sampled) };
            prop_assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
        }
    }
}
