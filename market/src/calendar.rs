//! When an exchange trades, and which bar a moment belongs to.
//!
//! Invariants:
//! * The buckets of a period tile time: they do not overlap, and the next begins where one ends, whatever clocks do.
//! * A bucket is half-open, with one exception: the last instant of a session (11:30:00.000 of `09:30-11:30`, when the
//!   closing auction prints) belongs to the session, and so to the bucket before it.
//! * Sessions decide which moments have a bucket, never how long it is: `09:30-11:30` has the hour 09:00 to 10:00.
//!
//! It must not know ticks, prices or the present time. The time zone database is the one compiled in, so that all nodes of
//! one version agree.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone, TimeZoneDatabase};
use serde::{Deserialize, Serialize};
use tickmesh_protocol::market::Period;

use crate::tick::MAX_EXCHANGE_LEN;

const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;
const WHOLE_DAY: Range<i64> = 0..DAY;
/// As they are written in the configuration.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// An exchange as it is configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExchangeConfig {
    /// What the data of its ticks calls it; empty for those that say nothing or name another.
    pub name: String,
    /// A name of the IANA time zone database, such as `Asia/Shanghai`.
    pub time_zone: String,
    /// Spans of local time in which it trades, such as `09:30-11:30`, in order; none for around the clock. One that goes
    /// past midnight is written as two, `00:00-02:30` and `21:00-24:00`.
    #[serde(default)]
    pub sessions: Vec<String>,
    /// Days on which it trades: `mon`, `tue`, .. `sun`; none for every day.
    #[serde(default)]
    pub days: Vec<String>,
}

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CalendarError {
    /// The name is not one that a tick can have.
    #[error(
        "exchange {0:?}: its name is not empty or 1 to {MAX_EXCHANGE_LEN} characters of A-Z a-z 0-9 _ . : -"
    )]
    Name(String),
    /// Two have one name.
    #[error("exchange {0:?}: it is there twice; each name is allowed once")]
    Twice(String),
    /// The database does not have the time zone.
    #[error(
        "exchange {exchange:?}: time zone {zone:?} is unknown; allowed are names of the IANA database such as \
         Asia/Shanghai"
    )]
    TimeZone {
        /// Name of the exchange.
        exchange: String,
        /// What is unknown.
        zone: String,
    },
    /// A session is not a span of a day.
    #[error(
        "exchange {exchange:?}: session {session:?} is not HH:MM-HH:MM with its begin before its end; allowed is 00:00 \
         to 24:00"
    )]
    Session {
        /// Name of the exchange.
        exchange: String,
        /// What is none.
        session: String,
    },
    /// A session begins before the one written before it ends.
    #[error(
        "exchange {exchange:?}: session {session:?} begins before {before:?} ends; allowed are sessions in order that do \
         not overlap"
    )]
    Order {
        /// Name of the exchange.
        exchange: String,
        /// The later in the list.
        session: String,
        /// The one before it in the list.
        before: String,
    },
    /// A day has another name.
    #[error("exchange {exchange:?}: day {day:?} is unknown; allowed are mon tue wed thu fri sat sun")]
    Day {
        /// Name of the exchange.
        exchange: String,
        /// What is unknown.
        day: String,
    },
}

/// The exchanges by their names.
#[derive(Debug, Clone)]
pub struct Calendar {
    named: BTreeMap<String, Exchange>,
    default: Exchange,
}

impl Default for Calendar {
    /// No exchanges: everything trades around the clock, and days are those of UTC.
    fn default() -> Self {
        let hours = Hours { zone: TimeZone::UTC, sessions: vec![WHOLE_DAY], days: [true; 7], always: true };
        Self { named: BTreeMap::new(), default: Exchange(Arc::new(hours)) }
    }
}

impl Calendar {
    /// Checks and takes exchanges. The one with the empty name is the default; without it, UTC around the clock is.
    ///
    /// # Errors
    /// The first thing that is wrong, with the exchange and what is allowed.
    pub fn new(exchanges: &[ExchangeConfig]) -> Result<Self, CalendarError> {
        let mut calendar = Self::default();
        for config in exchanges {
            let valid = config.name.len() <= MAX_EXCHANGE_LEN
                && config.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:-".contains(&b));
            if !valid {
                return Err(CalendarError::Name(config.name.clone()));
            }
            let exchange = Exchange(Arc::new(Hours::new(config)?));
            if calendar.named.insert(config.name.clone(), exchange).is_some() {
                return Err(CalendarError::Twice(config.name.clone()));
            }
        }
        if let Some(default) = calendar.named.get("") {
            calendar.default = default.clone();
        }
        Ok(calendar)
    }

    /// Whether any exchange that is configured trades at this time, in UTC milliseconds; without any, always.
    #[must_use]
    pub fn is_open(&self, at: u64) -> bool {
        let trades = |exchange: &Exchange| i64::try_from(at).is_ok_and(|at| exchange.0.trades(at));
        self.named.is_empty() || self.named.values().any(trades)
    }

    /// Since when, at the most so many milliseconds ago and by whole minutes, that has been so without a break; `None` where
    /// none trades.
    #[must_use]
    pub fn open_since(&self, at: u64, reach_ms: u64) -> Option<u64> {
        let minute = MINUTE.unsigned_abs();
        let back = (0..=reach_ms / minute).map(|n| at.saturating_sub(n * minute));
        back.take_while(|at| self.is_open(*at)).last()
    }

    /// The exchange with exactly this name, or else the default.
    #[must_use]
    pub fn exchange(&self, name: &str) -> &Exchange {
        self.named.get(name).unwrap_or(&self.default)
    }
}

/// When one exchange trades. Cloning counts a reference.
#[derive(Debug, Clone)]
pub struct Exchange(Arc<Hours>);

#[derive(Debug)]
struct Hours {
    zone: TimeZone,
    /// Milliseconds since local midnight, in order; at least one.
    sessions: Vec<Range<i64>>,
    /// From Monday.
    days: [bool; 7],
    /// Every session of every day: no need to look.
    always: bool,
}

impl Exchange {
    /// The span, in UTC milliseconds, of the bar to which a tick at `at` (UTC milliseconds) belongs. `None` outside the
    /// sessions, and for times past the year 9999.
    ///
    /// Minutes to hours are counted from local midnight, as the clock on the wall shows them; where it is changed inside
    /// one, the bar is cut there. A day goes from local midnight to the next, whatever the sessions; if midnight is skipped
    /// or comes twice, it begins with the first instant of that date. For the last instant of a session, `at` is the end
    /// of the span.
    #[must_use]
    pub fn bucket(&self, at: u64, period: Period) -> Option<Range<u64>> {
        let at = i64::try_from(at).ok()?;
        // Sessions end at whole minutes, so what ended one millisecond ago ends now.
        let inside = [at, at - 1].into_iter().find(|at| *at >= 0 && self.0.trades(*at))?;
        self.0.span(inside, period)
    }

    /// The span that a bar has that contains `at`, trading or not: for bars whose begin is before the session.
    pub(crate) fn span(&self, at: u64, period: Period) -> Option<Range<u64>> {
        self.0.span(i64::try_from(at).ok()?, period)
    }
}

impl Hours {
    fn new(config: &ExchangeConfig) -> Result<Self, CalendarError> {
        let exchange = || config.name.clone();
        let zone = TimeZoneDatabase::bundled().get(&config.time_zone).ok();
        // `Etc/Unknown` is found, but says that somebody does not know.
        let zone = zone.filter(|zone| !zone.is_unknown()).ok_or_else(|| CalendarError::TimeZone {
            exchange: exchange(),
            zone: config.time_zone.clone(),
        })?;
        let mut sessions: Vec<Range<i64>> = Vec::new();
        for (index, text) in config.sessions.iter().enumerate() {
            let session = session(text)
                .ok_or_else(|| CalendarError::Session { exchange: exchange(), session: text.clone() })?;
            if sessions.last().is_some_and(|before| session.start < before.end) {
                let before = config.sessions[index - 1].clone();
                return Err(CalendarError::Order { exchange: exchange(), session: text.clone(), before });
            }
            sessions.push(session);
        }
        if sessions.is_empty() {
            sessions.push(WHOLE_DAY);
        }
        let mut days = [config.days.is_empty(); 7];
        for text in &config.days {
            let day = DAYS.iter().position(|day| day == text);
            let day = day.ok_or_else(|| CalendarError::Day { exchange: exchange(), day: text.clone() })?;
            days[day] = true;
        }
        let always = days == [true; 7] && sessions == [WHOLE_DAY];
        Ok(Self { zone, sessions, days, always })
    }

    fn trades(&self, at: i64) -> bool {
        if self.always {
            return true;
        }
        let Some(offset) = self.offset(at) else { return false };
        let (day, time) = ((at + offset).div_euclid(DAY), (at + offset).rem_euclid(DAY));
        // 1970-01-01 was a Thursday.
        let weekday = (day + 3).rem_euclid(7) as usize;
        self.days[weekday] && self.sessions.iter().any(|session| session.contains(&time))
    }

    fn span(&self, at: i64, period: Period) -> Option<Range<u64>> {
        let span = match period {
            Period::Day => self.day(at)?,
            _ => self.part_of_day(at, period.millis() as i64)?,
        };
        // The first ones of 1970 begin before it in the east.
        Some(u64::try_from(span.start).unwrap_or(0)..u64::try_from(span.end).ok()?)
    }

    /// `width` divides a day, so whole widths of local time since 1970 are whole widths since local midnight.
    fn part_of_day(&self, at: i64, width: i64) -> Option<Range<i64>> {
        let offset = self.offset(at)?;
        let mut start = (at + offset).div_euclid(width) * width - offset;
        let mut end = start + width;
        // Almost never: clocks change at whole hours, except where they change by half an hour.
        if self.offset(start)? != offset {
            // Strictly before the next millisecond; changes come at whole seconds.
            let change = self.zone.preceding(Timestamp::from_millisecond(at + 1).ok()?).next()?;
            start = start.max(change.timestamp().as_millisecond());
        }
        if self.offset(end - 1)? != offset {
            let change = self.zone.following(Timestamp::from_millisecond(at).ok()?).next()?;
            end = end.min(change.timestamp().as_millisecond());
        }
        Some(start..end)
    }

    fn day(&self, at: i64) -> Option<Range<i64>> {
        let date = (at + self.offset(at)?).div_euclid(DAY);
        let (start, end) = (self.midnight(date)?, self.midnight(date + 1)?);
        if at < end {
            return Some(start..end);
        }
        // Clocks went back over midnight: it is yesterday again, but today has begun.
        Some(end..self.midnight(date + 2)?)
    }

    /// First instant of a date, which is given in days since 1970.
    fn midnight(&self, date: i64) -> Option<i64> {
        let local = Offset::UTC.to_datetime(Timestamp::from_millisecond(date * DAY).ok()?);
        let offset = match self.zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset,
            AmbiguousOffset::Fold { before, .. } => before,
            AmbiguousOffset::Gap { after, .. } => {
                // With the later offset it is a time before the change.
                let early = after.to_timestamp(local).ok()?;
                return Some(self.zone.following(early).next()?.timestamp().as_millisecond());
            }
        };
        Some(offset.to_timestamp(local).ok()?.as_millisecond())
    }

    /// Milliseconds by which local time is ahead of UTC.
    fn offset(&self, at: i64) -> Option<i64> {
        let at = Timestamp::from_millisecond(at).ok()?;
        Some(i64::from(self.zone.to_offset(at).seconds()) * 1000)
    }
}

/// `HH:MM-HH:MM` as milliseconds since midnight.
fn session(text: &str) -> Option<Range<i64>> {
    let (begin, end) = text.split_once('-')?;
    let (begin, end) = (time_of_day(begin)?, time_of_day(end)?);
    (begin < end).then_some(begin..end)
}

fn time_of_day(text: &str) -> Option<i64> {
    let &[h1, h0, b':', m1, m0] = text.as_bytes() else { return None };
    let two = |tens: u8, ones: u8| {
        let digits = tens.is_ascii_digit() && ones.is_ascii_digit();
        digits.then(|| i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
    };
    let (hours, minutes) = (two(h1, h0)?, two(m1, m0)?);
    (minutes < 60 && hours * 60 + minutes <= 24 * 60).then_some((hours * 60 + minutes) * MINUTE)
}

#[cfg(test)]
mod tests;
