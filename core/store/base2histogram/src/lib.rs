//! Histograms by powers of two, with what openraft needs of the published crate of the same name and version.
//!
//! openraft counts the sizes of its batches in one, and shows them only with its feature `runtime-stats`. The published crate
//! then computes tables for all sixteen widths that it offers, 26 MB and most of them never looked at: half of the
//! memory of an idle cluster. This one has no tables.
//!
//! - [`Histogram`]: counts values; [`PercentileStats`]: what is read from it
//! - [`AsciiChart`]: several of them as text

use std::fmt;
use std::marker::PhantomData;

/// One bucket for zero, and one per position of the highest bit.
const BUCKETS: usize = u64::BITS as usize + 1;

/// Counts values by the position of their highest bit. `T` is for compatibility alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: [u64; BUCKETS],
    data: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// An empty one.
    pub fn new() -> Self {
        Self { counts: [0; BUCKETS], data: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value `n` times.
    pub fn record_n(&mut self, value: u64, n: u64) {
        let count = &mut self.counts[(u64::BITS - value.leading_zeros()) as usize];
        *count = count.saturating_add(n);
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The least value of the bucket in which the value lies that `permille` of all are not above; 0 when there is none.
    fn at(&self, permille: u64) -> u64 {
        let rank = u128::from(self.total()) * u128::from(permille);
        let mut seen = 0_u128;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count) * 1000;
            if *count > 0 && seen >= rank {
                return bucket.checked_sub(1).map_or(0, |bit| 1 << bit);
            }
        }
        0
    }

    /// What is usually read from it.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.at(1),
            p1: self.at(10),
            p5: self.at(50),
            p10: self.at(100),
            p50: self.at(500),
            p90: self.at(900),
            p99: self.at(990),
            p99_9: self.at(999),
        }
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Which share of the values is not above which power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PercentileStats {
    /// How many values there are.
    pub samples: u64,
    /// One in a thousand.
    pub p0_1: u64,
    /// One in a hundred.
    pub p1: u64,
    /// One in twenty.
    pub p5: u64,
    /// One in ten.
    pub p10: u64,
    /// Half of them.
    pub p50: u64,
    /// Nine in ten.
    pub p90: u64,
    /// All but one in a hundred.
    pub p99: u64,
    /// All but one in a thousand.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p0_1, p1, p5, p10, p50, p90, p99, p99_9 } = self;
        write!(
            f,
            "[samples: {samples}, P0.1: {p0_1}, P1: {p1}, P5: {p5}, P10: {p10}, P50: {p50}, P90: {p90}, P99: {p99}, P99.9: {p99_9}]"
        )
    }
}

/// Several histograms, one per line.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart {
    rows: Vec<(String, Histogram)>,
}

impl AsciiChart {
    /// Without histograms.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more.
    #[must_use]
    pub fn add(mut self, name: impl Into<String>, histogram: Histogram) -> Self {
        self.rows.push((name.into(), histogram));
        self
    }

    /// As text.
    pub fn detailed(&self) -> impl fmt::Display + '_ {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, histogram) in &self.rows {
            writeln!(f, "{name:>24}: {}", histogram.percentile_stats())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_power_of_two_below_the_value() {
        let mut histogram = Histogram::<()>::new();
        histogram.record(0);
        histogram.record_n(5, 98);
        histogram.record(u64::MAX);
        let stats = histogram.percentile_stats();
        assert_eq!(stats.samples, 100);
        assert_eq!((stats.p1, stats.p50, stats.p99, stats.p99_9), (0, 4, 4, 1 << 63));
    }

    #[test]
    fn an_empty_histogram_has_no_percentiles() {
        let stats = Histogram::<()>::default().percentile_stats();
        assert_eq!((stats.samples, stats.p50), (0, 0));
    }
}
