//! Medians and ratios. No distributions are assumed: what is reported is a median with the smallest and largest value.

/// A median with its spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Median: the middle value, or the mean of the middle two.
    pub median: f64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// How many values.
    pub count: usize,
}

impl Summary {
    /// In another unit.
    pub fn scaled(self, factor: f64) -> Summary {
        let Summary { median, min, max, count } = self;
        Summary { median: median * factor, min: min * factor, max: max * factor, count }
    }
}

/// The summary of `values`; `None` if there are none.
pub fn summarise(values: impl IntoIterator<Item = f64>) -> Option<Summary> {
    let mut v: Vec<f64> = values.into_iter().collect();
    v.sort_by(f64::total_cmp);
    let (&min, &max) = (v.first()?, v.last()?);
    let mid = v.len() / 2;
    let median = if v.len() % 2 == 1 || v[mid - 1] == v[mid] { v[mid] } else { (v[mid - 1] + v[mid]) / 2.0 };
    Some(Summary { median, min, max, count: v.len() })
}

/// The summary of `ours / (factor-free peer)` over the rounds in which both have a value. Within a round both ran under
/// the same disturbance, so this holds still where the two medians drift.
pub fn paired(
    ours: &[(usize, f64)],
    peer: &[(usize, f64)],
    combine: impl Fn(f64, f64) -> f64,
) -> Option<Summary> {
    let of = |round| peer.iter().find(|&&(r, _)| r == round).map(|&(_, v)| v);
    summarise(ours.iter().filter_map(|&(round, v)| of(round).map(|p| combine(v, p))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(summarise([3.0, 1.0, 2.0]), Some(Summary { median: 2.0, min: 1.0, max: 3.0, count: 3 }));
        assert_eq!(summarise([4.0, 1.0]).unwrap().median, 2.5);
        assert_eq!(summarise([f64::INFINITY, f64::INFINITY]).unwrap().median, f64::INFINITY);
        assert_eq!(summarise([]), None);
    }

    #[test]
    fn pairs_only_common_rounds() {
        let ours = [(0, 10.0), (1, 30.0), (2, 8.0)];
        let peer = [(0, 20.0), (2, 2.0), (3, 1.0)];
        let s = paired(&ours, &peer, |a, b| a / b).unwrap();
        assert_eq!((s.min, s.max, s.count), (0.5, 4.0, 2));
        assert_eq!(paired(&ours, &[], |a, b| a / b), None);
    }
}
