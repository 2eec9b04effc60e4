//! Medians and other percentiles.

/// The percentile: the smallest value that `percent` of all do not exceed; `None` without values.
pub(crate) fn percentile(values: &mut [f64], percent: usize) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let at = (values.len() * percent).div_ceil(100).max(1) - 1;
    values.get(at).copied()
}

/// The median over the rounds, with the extremes.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Summary {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values = values.into_iter().collect::<Vec<_>>();
        let median = percentile(&mut values, 50)?;
        Some(Self { median, least: *values.first()?, most: *values.last()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let mut values = (1..=100).rev().map(f64::from).collect::<Vec<_>>();
        assert_eq!(percentile(&mut values, 50), Some(50.0));
        assert_eq!(percentile(&mut values, 99), Some(99.0));
        assert_eq!(percentile(&mut values, 100), Some(100.0));
        assert_eq!(percentile(&mut [4.0], 99), Some(4.0));
        assert_eq!(percentile(&mut [], 50), None);
    }

    #[test]
    fn summaries() {
        let summary = Summary { median: 2.0, least: 1.0, most: 9.0 };
        assert_eq!(Summary::of([9.0, 1.0, 2.0]), Some(summary));
        assert_eq!(Summary::of([]), None);
    }
}
