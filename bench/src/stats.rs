//! Samples and what is said of them: pure arithmetic.

/// What a series of samples comes to. Times are in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// How many samples.
    pub count: usize,
    /// The least.
    pub min: f64,
    /// The median.
    pub p50: f64,
    /// 90 % are at most this.
    pub p90: f64,
    /// 99 % are at most this; the greatest, below 100 samples.
    pub p99: f64,
    /// The greatest.
    pub max: f64,
}

impl Summary {
    /// Sums up `samples`; `None` if there are none.
    pub fn of(samples: &[f64]) -> Option<Summary> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let at = |part: f64| {
            let rank = (part * sorted.len() as f64).ceil() as usize;
            sorted[rank.clamp(1, sorted.len()) - 1]
        };
        Some(Summary { count: sorted.len(), min, p50: at(0.5), p90: at(0.9), p99: at(0.99), max })
    }

    /// A figure that was read once, such as a size.
    pub fn single(value: f64) -> Summary {
        Summary { count: 1, min: value, p50: value, p90: value, p99: value, max: value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let summary = Summary::of(&samples).unwrap();
        assert_eq!((summary.min, summary.p50, summary.p90), (1.0, 100.0, 180.0));
        assert_eq!((summary.p99, summary.max, summary.count), (198.0, 200.0, 200));
    }

    #[test]
    fn one_sample_is_all_percentiles_and_none_is_no_summary() {
        assert_eq!(Summary::of(&[3.0]), Some(Summary::single(3.0)));
        assert_eq!(Summary::of(&[]), None);
    }
}
