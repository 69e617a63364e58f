//! Names of tables, made of what clients named: `[a-z0-9_]` only, whatever went in.
//!
//! TDengine folds the case of names, and takes at most 192 bytes. Two different texts never get one name.

use crate::StoreError;

/// TDengine's bound.
pub(super) const MAX_NAME_LEN: usize = 192;
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The table of a room's rows.
pub(super) fn ticks(room: &str) -> Result<String, StoreError> {
    named("t", room)
}

/// The table of a room's position.
pub(super) fn position(room: &str) -> Result<String, StoreError> {
    named("p", room)
}

/// The table of a symbol's bars of one period.
pub(super) fn bars(symbol: &str, period: &str) -> Result<String, StoreError> {
    named(&format!("k{period}"), symbol)
}

/// `prefix_` and the text with everything but `[a-z0-9]` as `_` and two hexadecimal digits; or, where that is too long,
/// `prefixx_` and its seven-bit characters in base 32.
fn named(prefix: &str, text: &str) -> Result<String, StoreError> {
    if !text.is_ascii() || text.is_empty() {
        return Err(StoreError::Refused("a name is not of ascii characters".into()));
    }
    let mut name = format!("{prefix}_");
    for byte in text.bytes() {
        if byte.is_ascii_lowercase() || byte.is_ascii_digit() {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("_{byte:02x}"));
        }
    }
    if name.len() > MAX_NAME_LEN {
        // A name with this prefix is none of the first kind.
        name = format!("{prefix}x_");
        let (mut bits, mut count) = (0u32, 0u32);
        for byte in text.bytes() {
            (bits, count) = ((bits << 7) | u32::from(byte), count + 7);
            while count >= 5 {
                count -= 5;
                name.push(char::from(BASE32[(bits >> count) as usize & 31]));
            }
        }
        if count > 0 {
            name.push(char::from(BASE32[(bits << (5 - count)) as usize & 31]));
        }
    }
    if name.len() > MAX_NAME_LEN {
        return Err(StoreError::Refused("a name is too long".into()));
    }
    Ok(name)
}

/// Whether a database may have this name.
pub(super) fn is_database(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && !name.starts_with(|first: char| first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn is_safe(name: &str) -> bool {
        name.len() <= MAX_NAME_LEN
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    }

    #[test]
    fn different_rooms_have_different_tables_whatever_their_case() {
        let texts = [
            "a",
            "A",
            "_41",
            "_",
            "a_",
            "a__",
            "a.b",
            "a-b",
            "a:b",
            "a_2eb",
            "market_BTC-USDT",
            "market_btc-usdt",
            "x_a",
        ];
        let names: HashSet<String> = texts.iter().map(|text| ticks(text).unwrap()).collect();
        assert_eq!(names.len(), texts.len());
        assert!(names.iter().all(|name| is_safe(name)));
        assert_eq!(ticks("market_BTC").unwrap(), "t_market_5f_42_54_43");
    }

    #[test]
    fn the_longest_names_fit_and_differ_in_their_last_character() {
        let long = |last: char| format!("{}{last}", "Z".repeat(127));
        let names: HashSet<String> = "AZ._:-09az".chars().map(|last| ticks(&long(last)).unwrap()).collect();
        assert_eq!(names.len(), 10);
        assert!(names.iter().all(|name| is_safe(name) && name.starts_with("tx_")));
        assert!(is_safe(&bars(&"A".repeat(64), "15m").unwrap()));
        assert_ne!(ticks(&"Z".repeat(127)).unwrap(), ticks(&"Z".repeat(128)).unwrap());
    }

    #[test]
    fn text_that_is_no_name_is_refused() {
        for text in ["", "ü", "🚀"] {
            assert!(matches!(ticks(text), Err(StoreError::Refused(_))));
        }
        assert!(is_safe(&ticks("'; DROP DATABASE tickmesh; --").unwrap()));
        assert!(is_database("tickmesh") && is_database("a_1") && !is_database("1a"));
        assert!(
            !is_database("") && !is_database("A") && !is_database("a`b") && !is_database(&"a".repeat(33))
        );
    }
}
