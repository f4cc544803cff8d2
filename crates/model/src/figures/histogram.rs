//! How long things took: a histogram whose buckets grow with what they hold.
//!
//! Numbers below 16 have a bucket each; above, every power of two is divided into eight buckets of one width.
//! What a bucket holds is told as the number in its harmonic middle, which lies within 1/17 (5.9 %) of all of
//! it. Only buckets that hold something are kept. Count and sum are exact, and so is the mean.

use super::float;

/// The bits of a number that choose among the buckets of its power of two.
const BITS: u32 = 3;

/// How often which number came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Histogram {
    sum: u64,
    /// Bucket and count, by rising bucket; no count is 0.
    buckets: Vec<(u16, u64)>,
}

impl Histogram {
    /// Counts a number.
    pub fn record(&mut self, number: u64) {
        self.sum = self.sum.saturating_add(number);
        self.put(bucket_of(number), 1);
    }

    /// Adds everything that another counted.
    pub fn merge(&mut self, other: &Self) {
        self.sum = self.sum.saturating_add(other.sum);
        for (bucket, count) in &other.buckets {
            self.put(*bucket, *count);
        }
    }

    /// How many numbers were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// Their mean; 0 without any.
    pub fn mean(&self) -> f64 {
        super::share(self.sum, self.count())
    }

    /// The smallest of them that at least a share `q` (0 to 1) of them does not exceed, within 6 %; 0 without any.
    pub fn quantile(&self, q: f64) -> f64 {
        let wanted = float(self.count()) * q.clamp(0.0, 1.0);
        let mut passed = 0.0;
        for (bucket, count) in &self.buckets {
            passed += float(*count);
            if passed >= wanted {
                return middle(*bucket);
            }
        }
        0.0
    }

    /// As it is written: the sum, and bucket and count by rising bucket.
    pub(super) fn parts(&self) -> (u64, &[(u16, u64)]) {
        (self.sum, &self.buckets)
    }

    /// Adds to the sum alone, as it is read.
    pub(super) fn put_sum(&mut self, sum: u64) {
        self.sum = self.sum.saturating_add(sum);
    }

    /// Adds to a bucket alone, as it is read.
    pub(super) fn put(&mut self, bucket: u16, count: u64) {
        if count == 0 {
            return;
        }
        match self.buckets.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
            Ok(at) => self.buckets[at].1 = self.buckets[at].1.saturating_add(count),
            Err(at) => self.buckets.insert(at, (bucket, count)),
        }
    }
}

/// The highest bucket: of 2^64 - 1.
pub(super) const LAST: u16 = 495;

fn bucket_of(number: u64) -> u16 {
    let bucket = match number.checked_ilog2().filter(|power| *power >= BITS) {
        None => number,
        Some(power) => u64::from((power - BITS + 1) << BITS) + ((number >> (power - BITS)) & 7),
    };
    u16::try_from(bucket).unwrap_or(LAST)
}

/// The number that stands for a bucket: as far, as a share of itself, from its smallest as from its greatest.
fn middle(bucket: u16) -> f64 {
    let bucket = u64::from(bucket.min(LAST));
    let (row, column) = (bucket >> BITS, bucket & 7);
    if row == 0 {
        return float(bucket);
    }
    let smallest = (8 + column) << (row - 1);
    let greatest = smallest + ((1 << (row - 1)) - 1);
    let (smallest, greatest) = (float(smallest), float(greatest));
    2.0 * smallest * greatest / (smallest + greatest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(numbers: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        for number in numbers {
            histogram.record(*number);
        }
        histogram
    }

    /// Numbers of every magnitude.
    fn any_number() -> impl Strategy<Value = u64> {
        (0u32..64, any::<u64>()).prop_map(|(shift, number)| number >> shift)
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_six_percent_of_the_true_one(
            mut numbers in prop::collection::vec(any_number(), 1..300),
            q in 0.0f64..=1.0,
        ) {
            let histogram = of(&numbers);
            numbers.sort_unstable();
            let wanted = float(numbers.len() as u64) * q;
            let exact = numbers.iter().zip(1u64..).find(|(_, rank)| float(*rank) >= wanted).unwrap().0;
            let (told, exact) = (histogram.quantile(q), float(*exact));
            prop_assert!((told - exact).abs() <= exact / 16.99, "{} for {}", told, exact);
        }

        #[test]
        fn it_does_not_matter_who_counted_what(
            numbers in prop::collection::vec(0u64..1 << 40, 0..100),
            at in 0usize..100,
        ) {
            let (a, b) = numbers.split_at(at.min(numbers.len()));
            let (mut left, mut right) = (of(a), of(b));
            left.merge(&of(b));
            right.merge(&of(a));
            prop_assert_eq!(&left, &of(&numbers));
            prop_assert_eq!(&right, &left);
            let exact = float(numbers.iter().sum::<u64>()) / float(numbers.len().max(1) as u64);
            prop_assert_eq!((left.count(), left.mean()), (numbers.len() as u64, exact));
        }

        #[test]
        fn greater_numbers_lie_in_no_lower_bucket(a in any_number(), b in any_number()) {
            prop_assert!(a > b || bucket_of(a) <= bucket_of(b));
        }
    }

    #[test]
    fn small_numbers_are_exact_and_the_greatest_has_a_bucket() {
        for number in 0..16 {
            assert_eq!(middle(bucket_of(number)), float(number));
        }
        assert_eq!((bucket_of(15), bucket_of(16), bucket_of(17)), (15, 16, 16));
        assert_eq!(bucket_of(u64::MAX), LAST);
    }

    #[test]
    fn nothing_has_no_quantiles() {
        assert_eq!((Histogram::default().quantile(0.95), Histogram::default().mean()), (0.0, 0.0));
        let one = of(&[7]);
        assert_eq!([0.0, 0.5, 1.0, 2.0, -1.0].map(|q| one.quantile(q)), [7.0; 5]);
    }
}
