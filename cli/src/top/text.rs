//! Text as a terminal shows it: how wide it is, how it is cut, and numbers for people.
//!
//! Invariant: what comes from a server has no control character when it is shown, so that it cannot speak to the terminal.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Stands for what was cut out.
const CUT: char = '…';
/// Stands for what a terminal would obey or not show.
const HIDDEN: char = '·';

/// Columns of a terminal that it takes.
pub(super) fn width(text: &str) -> usize {
    text.width()
}

/// Without characters that a terminal obeys in place of showing them, or that turn the direction of what follows.
pub(super) fn clean(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    text.chars().map(|c| if hidden(c) { HIDDEN } else { c }).collect()
}

/// One word: what is separated by white space has as many fields as it should.
pub(super) fn word(text: &str) -> String {
    if text.is_empty() {
        return "-".into();
    }
    text.chars().map(|c| if c.is_whitespace() { '_' } else { c }).collect()
}

/// At most so many columns. Names are cut in the middle: those of pods differ at the end.
pub(super) fn fit(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let Some(rest) = columns.checked_sub(1) else { return String::new() };
    let tail_columns = rest / 2;
    let tail: Vec<char> = take(text.chars().rev(), tail_columns);
    let mut out: String = take(text.chars(), rest - tail_columns).into_iter().collect();
    out.push(CUT);
    out.extend(tail.into_iter().rev());
    out
}

/// At most so many columns, cut at the end.
pub(super) fn head(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let Some(rest) = columns.checked_sub(1) else { return String::new() };
    let mut out: String = take(text.chars(), rest).into_iter().collect();
    out.push(CUT);
    out
}

fn take(characters: impl Iterator<Item = char>, columns: usize) -> Vec<char> {
    let mut used = 0;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= columns
    };
    characters.take_while(fits).collect()
}

/// A number with at most four digits and a unit of thousands: `950`, `12.3k`, `4.0M`.
pub(super) fn count(value: f64) -> String {
    scaled(value, 1_000.0, 10_000.0, ["", "k", "M", "G", "T"])
}

/// Bytes by 1024: `512`, `9.0K`, `80M`.
pub(super) fn bytes(value: f64) -> String {
    scaled(value, 1_024.0, 1_024.0, ["", "K", "M", "G", "T"])
}

fn scaled(value: f64, step: f64, first: f64, units: [&str; 5]) -> String {
    let mut value = value;
    let mut unit = 0;
    while unit + 1 < units.len() && value >= if unit == 0 { first } else { step } {
        value /= step;
        unit += 1;
    }
    let whole = value >= 99.95 || (unit == 0 && (value >= 9.95 || value.fract() == 0.0));
    if whole { format!("{value:.0}{}", units[unit]) } else { format!("{value:.1}{}", units[unit]) }
}

/// A share of a hundred.
pub(super) fn percent(value: f64) -> String {
    if value >= 99.95 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// Milliseconds as `0.4ms`, `123ms`, `1.2s`, `95s`.
pub(super) fn millis(value: f64) -> String {
    match value {
        value if value < 9.95 => format!("{value:.1}ms"),
        value if value < 999.5 => format!("{value:.0}ms"),
        value if value < 9_950.0 => format!("{:.1}s", value / 1_000.0),
        value => format!("{:.0}s", value / 1_000.0),
    }
}

/// A time that passed, given in milliseconds: `34s`, `12m`, `5h12m`, `3d04h`.
pub(super) fn age(millis: u64) -> String {
    let seconds = millis / 1_000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{minutes}m"),
        3_600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// The time of day in UTC.
pub(super) fn clock(utc_ms: u64) -> String {
    let seconds = utc_ms / 1_000;
    format!("{:02}:{:02}:{:02}", seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_in_the_middle_to_the_width_they_take() {
        assert_eq!(fit("short", 5), "short");
        assert_eq!(fit("tickmesh-node-7c9d8b-x2x9p", 13), "tickme…-x2x9p");
        // Each of these takes two columns; a half of one is left empty.
        assert_eq!(fit("上海节点一号", 12), "上海节点一号");
        assert_eq!(fit("上海节点一号", 8), "上海…号");
        for columns in 0..30 {
            for text in ["上海节点一号", "a\u{301}bcdefgh", "tickmesh-node-7c9d8b-x2x9p", "x上y海z"] {
                assert!(width(&fit(text, columns)) <= columns, "{text} in {columns}");
                assert!(width(&head(text, columns)) <= columns, "{text} in {columns}");
            }
        }
        assert_eq!(head("node b is lost", 9), "node b i…");
    }

    #[test]
    fn a_terminal_obeys_no_text_of_a_server() {
        assert_eq!(clean("a\u{1b}[2Jb\r\n\u{202e}c\u{9b}d"), "a·[2Jb···c·d");
        assert_eq!(word("two words"), "two_words");
        assert_eq!(word(""), "-");
    }

    #[test]
    fn numbers_are_short() {
        let counts = [0.0, 0.25, 9.96, 999.0, 1_200.0, 9_999.0, 12_345.0, 999_999.0, 4e6].map(count);
        assert_eq!(counts, ["0", "0.2", "10", "999", "1200", "9999", "12.3k", "1000k", "4.0M"]);
        let sizes = [0.0, 512.0, 1_024.0, 9_216.0, 83_886_080.0, 1.3e9].map(bytes);
        assert_eq!(sizes, ["0", "512", "1.0K", "9.0K", "80.0M", "1.2G"]);
        assert_eq!([0.4, 9.94, 12.0, 999.6, 95_000.0].map(millis), ["0.4ms", "9.9ms", "12ms", "1.0s", "95s"]);
        assert_eq!([0.0, 42.54, 99.99, 104.2].map(percent), ["0.0", "42.5", "100", "104"]);
        let ages = [0, 34_000, 720_000, 18_720_000, 273_600_000].map(age);
        assert_eq!(ages, ["0s", "34s", "12m", "5h12m", "3d04h"]);
        assert_eq!(clock(1_764_150_109_000), "09:41:49");
    }
}
