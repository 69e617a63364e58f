//! Quantiles of what a histogram counted lately, from looks at its totals.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Quantiles of a distribution, in the unit of its figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// None where nothing was counted, as below.
    #[serde(default)]
    pub p50: Option<f64>,
    /// See `p50`.
    #[serde(default)]
    pub p95: Option<f64>,
    /// See `p50`.
    #[serde(default)]
    pub p99: Option<f64>,
}

/// A histogram's totals at the last few looks, so that what was counted between the first and the last of them is known.
#[derive(Debug)]
pub struct Window {
    looks: usize,
    totals: VecDeque<Vec<u64>>,
}

impl Window {
    /// Reaches back over so many looks, at least 1.
    #[must_use]
    pub fn new(looks: usize) -> Self {
        Self { looks: looks.max(1), totals: VecDeque::new() }
    }

    /// Takes the totals of now, one for each bucket, and says what was counted in each since the oldest look that is
    /// remembered. The first look only begins.
    pub fn look(&mut self, totals: Vec<u64>) -> Vec<u64> {
        let counted = match self.totals.front() {
            Some(oldest) if oldest.len() == totals.len() => {
                oldest.iter().zip(&totals).map(|(before, now)| now.saturating_sub(*before)).collect()
            }
            _ => {
                self.totals.clear();
                vec![0; totals.len()]
            }
        };
        if self.totals.len() >= self.looks {
            self.totals.pop_front();
        }
        self.totals.push_back(totals);
        counted
    }
}

impl Spread {
    /// Of counts in buckets with these upper bounds, each divided by `per_unit`.
    #[must_use]
    pub fn of(bounds: &[u64], counts: &[u64], per_unit: f64) -> Self {
        let at = |part| quantile(bounds, counts, part).map(|value| round(value / per_unit));
        Self { p50: at(0.5), p95: at(0.95), p99: at(0.99) }
    }
}

fn round(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// The value below which this part of all counts is, as if they were spread evenly within their bucket. What is above the
/// last bound counts as that bound. None where nothing was counted.
#[must_use]
pub fn quantile(bounds: &[u64], counts: &[u64], part: f64) -> Option<f64> {
    let all: u64 = counts.iter().sum();
    if all == 0 {
        return None;
    }
    let wanted = all as f64 * part.clamp(0.0, 1.0);
    let mut below = 0.0;
    for (at, count) in counts.iter().enumerate() {
        let Some(upper) = bounds.get(at) else { break };
        let count = *count as f64;
        if count > 0.0 && below + count >= wanted {
            let lower = at.checked_sub(1).map_or(0, |before| bounds[before]) as f64;
            return Some(lower + (*upper as f64 - lower) * ((wanted - below) / count));
        }
        below += count;
    }
    bounds.last().map(|bound| *bound as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let bounds = [1_000, 2_000, 5_000];
        assert_eq!(quantile(&bounds, &[0, 0, 0, 0], 0.5), None);
        assert_eq!(quantile(&bounds, &[10, 0, 0, 0], 0.5), Some(500.0));
        assert_eq!(quantile(&bounds, &[0, 10, 0, 0], 0.5), Some(1_500.0));
        assert_eq!(quantile(&bounds, &[98, 0, 2, 0], 0.99), Some(3_500.0));
        assert_eq!(quantile(&bounds, &[0, 0, 0, 5], 0.5), Some(5_000.0), "beyond the last bound");
        let spread = Spread::of(&bounds, &[10, 0, 0, 0], 1_000.0);
        assert_eq!((spread.p50, spread.p95), (Some(0.5), Some(0.95)));
    }

    #[test]
    fn a_window_counts_since_its_oldest_look() {
        let mut window = Window::new(2);
        assert_eq!(window.look(vec![5, 1]), [0, 0], "what was before is not of now");
        assert_eq!(window.look(vec![7, 1]), [2, 0]);
        assert_eq!(window.look(vec![7, 4]), [2, 3]);
        assert_eq!(window.look(vec![7, 4]), [0, 3], "the first look is forgotten");
        assert_eq!(window.look(vec![7, 4]), [0, 0]);
    }
}
