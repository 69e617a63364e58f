//! The rules: what there is, their bounds, and what holds where nothing is configured.

use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr, VariantArray};

use super::Severity;

/// Longest time that a condition has to last, either way.
const MAX_FOR_MS: u64 = 24 * 3_600_000;

/// Which rule.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum RuleName {
    /// Sessions of all nodes together.
    ConnectionsHigh,
    /// The same, for another threshold.
    ConnectionsVeryHigh,
    /// From acceptance to write (p99), of each node.
    LatencyHigh,
    /// The same, for another threshold.
    LatencyVeryHigh,
    /// Answers that are errors, of each node.
    ErrorRateHigh,
    /// Average quality of connections, of each node.
    QualityLow,
    /// Percent of the memory limit, of each process.
    MemoryHigh,
    /// The same, for another threshold.
    MemoryVeryHigh,
    /// A node does not reach Redis.
    RedisAway,
    /// A node does not reach a store.
    StoreAway,
    /// A node is gone that had not said that it would go.
    NodeLost,
    /// A gateway is.
    GatewayLost,
    /// From acceptance to write of market data (p95), of each node.
    MarketLatencyHigh,
    /// No market data while a market is open.
    MarketSilent,
    /// Percent of a store's connections that are in use, of each node and store.
    PoolBusy,
}

impl RuleName {
    /// All of them.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// As configuration and alarms have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The rule of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        name.parse().ok()
    }

    /// Of its figures; empty for counts, and for what is so (1) or not (0).
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::LatencyHigh | Self::LatencyVeryHigh | Self::MarketLatencyHigh => "ms",
            Self::ErrorRateHigh => "1/s",
            Self::QualityLow => "points",
            Self::MemoryHigh | Self::MemoryVeryHigh | Self::PoolBusy => "%",
            Self::MarketSilent => "s",
            Self::ConnectionsHigh
            | Self::ConnectionsVeryHigh
            | Self::RedisAway
            | Self::StoreAway
            | Self::NodeLost
            | Self::GatewayLost => "",
        }
    }

    /// Whether it fires below its threshold, where others fire above.
    #[must_use]
    pub fn is_below(self) -> bool {
        self == Self::QualityLow
    }

    /// Whether its figure is 1 or 0.
    #[must_use]
    pub fn is_yes_or_no(self) -> bool {
        matches!(self, Self::RedisAway | Self::StoreAway | Self::NodeLost | Self::GatewayLost)
    }
}

/// A rule as it is configured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Which.
    pub name: RuleName,
    /// Whether it is looked at.
    pub enabled: bool,
    /// What its alarms are.
    pub severity: Severity,
    /// Beyond this figure it fires.
    pub threshold: f64,
    /// At this figure, and on its other side, it is over; between the two it stays as it is.
    pub clear: f64,
    /// Milliseconds for which the figure has to be beyond the threshold before it fires.
    pub for_ms: u64,
    /// Milliseconds for which the figure has to be at `clear` or better before it is over.
    pub clear_for_ms: u64,
}

/// What is wrong with a rule, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadRule(String);

impl Rule {
    /// Whether this figure is one to fire for.
    #[must_use]
    pub fn is_breached_by(&self, value: f64) -> bool {
        if self.name.is_below() { value < self.threshold } else { value > self.threshold }
    }

    /// Whether this figure is one at which it is over.
    #[must_use]
    pub fn is_cleared_by(&self, value: f64) -> bool {
        if self.name.is_below() { value >= self.clear } else { value <= self.clear }
    }

    /// Whether its values can be used.
    ///
    /// # Errors
    /// With the first that cannot.
    pub fn check(&self) -> Result<(), BadRule> {
        let name = self.name.name();
        let bad = |text: String| Err(BadRule(text));
        for (what, value) in [("threshold", self.threshold), ("clear", self.clear)] {
            if !(value.is_finite() && (0.0..=1e12).contains(&value)) {
                return bad(format!("{what} of rule \"{name}\" to be a number from 0 to 1e12, not {value}"));
            }
        }
        if self.name.is_yes_or_no() && !(0.0..1.0).contains(&self.threshold) {
            return bad(format!("threshold of rule \"{name}\" to be 0: its figure is 1 or 0"));
        }
        let (wrong, side) = if self.name.is_below() {
            (self.clear < self.threshold, "at least")
        } else {
            (self.clear > self.threshold, "at most")
        };
        if wrong {
            let (clear, threshold) = (self.clear, self.threshold);
            return bad(format!(
                "clear of rule \"{name}\" to be {side} its threshold {threshold}, not {clear}"
            ));
        }
        for (what, value) in [("for_ms", self.for_ms), ("clear_for_ms", self.clear_for_ms)] {
            if value > MAX_FOR_MS {
                return bad(format!(
                    "{what} of rule \"{name}\" to be an integer from 0 to {MAX_FOR_MS}, not {value}"
                ));
            }
        }
        Ok(())
    }
}

/// The rules of a configuration that names none.
#[must_use]
pub fn default_rules() -> Vec<Rule> {
    const SECOND: u64 = 1_000;
    const MINUTE: u64 = 60 * SECOND;
    use Severity::{Critical, Warning};
    let rule = |name, severity, (threshold, clear), (for_ms, clear_for_ms)| Rule {
        name,
        enabled: true,
        severity,
        threshold,
        clear,
        for_ms,
        clear_for_ms,
    };
    vec![
        rule(RuleName::ConnectionsHigh, Warning, (1_000.0, 950.0), (5 * MINUTE, MINUTE)),
        rule(RuleName::ConnectionsVeryHigh, Critical, (5_000.0, 4_750.0), (2 * MINUTE, MINUTE)),
        rule(RuleName::LatencyHigh, Warning, (200.0, 150.0), (5 * MINUTE, MINUTE)),
        rule(RuleName::LatencyVeryHigh, Critical, (1_000.0, 750.0), (2 * MINUTE, MINUTE)),
        rule(RuleName::ErrorRateHigh, Warning, (10.0, 5.0), (2 * MINUTE, MINUTE)),
        rule(RuleName::QualityLow, Warning, (60.0, 65.0), (5 * MINUTE, MINUTE)),
        rule(RuleName::MemoryHigh, Warning, (80.0, 75.0), (5 * MINUTE, MINUTE)),
        rule(RuleName::MemoryVeryHigh, Critical, (92.0, 88.0), (30 * SECOND, MINUTE)),
        rule(RuleName::RedisAway, Critical, (0.0, 0.0), (15 * SECOND, 5 * SECOND)),
        rule(RuleName::StoreAway, Warning, (0.0, 0.0), (MINUTE, 10 * SECOND)),
        rule(RuleName::NodeLost, Warning, (0.0, 0.0), (0, 0)),
        rule(RuleName::GatewayLost, Warning, (0.0, 0.0), (0, 0)),
        rule(RuleName::MarketLatencyHigh, Warning, (2_000.0, 1_500.0), (MINUTE, MINUTE)),
        rule(RuleName::MarketSilent, Critical, (120.0, 10.0), (MINUTE, 0)),
        rule(RuleName::PoolBusy, Warning, (80.0, 70.0), (MINUTE, MINUTE)),
    ]
}
