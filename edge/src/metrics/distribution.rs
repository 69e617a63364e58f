//! Histograms that one thread fills and another reads, and their buckets.
//!
//! They are written by hand because those of `prometheus-client` take a lock for every value.

use std::fmt;

use prometheus_client::encoding::{MetricEncoder, NoLabelSet};

use super::Count;

/// The buckets of a histogram.
#[derive(Debug)]
pub struct Scale {
    /// Upper bounds, inclusive and rising; beyond the last there is one more bucket.
    pub bounds: &'static [u64],
    /// What is counted, in the unit that is exported: 1,000,000 for microseconds that are told as seconds.
    pub per_unit: u64,
}

/// From the acceptance of a message to somewhere, in microseconds.
pub static LATENCY: Scale = Scale {
    bounds: &[
        1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000,
        5_000_000, 10_000_000,
    ],
    per_unit: 1_000_000,
};

/// Within a process, in microseconds.
pub static DELAY: Scale = Scale {
    bounds: &[
        100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
        2_500_000,
    ],
    per_unit: 1_000_000,
};

/// Things that went together.
pub static BATCH: Scale = Scale { bounds: &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024], per_unit: 1 };

/// Points of a hundred.
pub static SCORE: Scale = Scale { bounds: &[10, 20, 30, 40, 50, 60, 70, 80, 90, 100], per_unit: 1 };

/// A histogram that one thread fills.
#[derive(Debug)]
pub struct Distribution {
    scale: &'static Scale,
    /// One for each bound, and the last for what is above all of them.
    buckets: Box<[Count]>,
    sum: Count,
}

impl Distribution {
    /// An empty one.
    #[must_use]
    pub fn new(scale: &'static Scale) -> Self {
        let buckets = (0..=scale.bounds.len()).map(|_| Count::default()).collect();
        Self { scale, buckets, sum: Count::default() }
    }

    /// Counts a value so many times.
    pub fn observe(&self, value: u64, times: u64) {
        let bounds = self.scale.bounds;
        let at = bounds.iter().position(|bound| value <= *bound).unwrap_or(bounds.len());
        self.buckets[at].add(times);
        self.sum.add(value.saturating_mul(times));
    }

    /// What several counted in each bucket, the last being above all bounds.
    #[must_use]
    pub fn counts<'a>(scale: &Scale, all: impl Iterator<Item = &'a Self>) -> Vec<u64> {
        let mut counts = vec![0u64; scale.bounds.len() + 1];
        for one in all {
            for (sum, count) in counts.iter_mut().zip(&one.buckets) {
                *sum = sum.wrapping_add(count.get());
            }
        }
        counts
    }

    /// Writes several as one series.
    ///
    /// # Errors
    /// When the writer fails.
    pub fn encode<'a>(
        scale: &Scale,
        all: impl Iterator<Item = &'a Self>,
        mut encoder: MetricEncoder<'_>,
    ) -> fmt::Result {
        let unit = scale.per_unit as f64;
        let bounds = scale.bounds.iter().map(|bound| *bound as f64 / unit).chain([f64::INFINITY]);
        let mut buckets: Vec<(f64, u64)> = bounds.map(|bound| (bound, 0)).collect();
        let mut sum = 0;
        for one in all {
            sum += one.sum.get();
            for (bucket, count) in buckets.iter_mut().zip(&one.buckets) {
                bucket.1 += count.get();
            }
        }
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(sum as f64 / unit, count, &buckets, None)
    }
}
