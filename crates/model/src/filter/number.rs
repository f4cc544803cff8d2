//! Numbers compared by what they are worth.

use std::{cmp::Ordering, fmt};

use serde_json::Number;

/// A JSON number whose equality, hash and order follow its value: 300, 300.0 and 3e2 are one number.
///
/// 64-bit integers and the values of `f64` are exact, so ids beyond 2^53 stay apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Num(Repr);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Repr {
    /// Every whole number below [`WHOLE_BOUND`].
    Whole(i128),
    /// The bits of any other `f64`.
    Other(u64),
}

/// Below it, a whole `f64` fits an `i128`.
const WHOLE_BOUND: f64 = 1e38;

impl Num {
    /// The nearest `f64`. The order of numbers is never reversed by it, but two may become one.
    pub fn to_f64(self) -> f64 {
        match self.0 {
            Repr::Whole(whole) => whole as f64,
            Repr::Other(bits) => f64::from_bits(bits),
        }
    }
}

impl From<&Number> for Num {
    fn from(number: &Number) -> Self {
        if let Some(whole) = number.as_i128() {
            return Self(Repr::Whole(whole));
        }
        let value = number.as_f64().unwrap_or_default(); // without arbitrary precision there always is one
        let whole = value.fract() == 0.0 && value.abs() < WHOLE_BOUND;
        Self(if whole { Repr::Whole(value as i128) } else { Repr::Other(value.to_bits()) })
    }
}

impl Ord for Num {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.0, other.0) {
            (Repr::Whole(this), Repr::Whole(that)) => this.cmp(&that),
            // A whole number and any other one never become equal as `f64`.
            _ => self.to_f64().total_cmp(&other.to_f64()),
        }
    }
}

impl PartialOrd for Num {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The shortest decimal text: `300`, `0.1`.
impl fmt::Display for Num {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Repr::Whole(whole) => write!(f, "{whole}"),
            Repr::Other(bits) => write!(f, "{}", f64::from_bits(bits)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn num(text: &str) -> Num {
        Num::from(&serde_json::from_str::<Number>(text).unwrap())
    }

    #[test]
    fn numbers_are_equal_by_value() {
        for (left, right, order) in [
            ("300", "300.0", Ordering::Equal),
            ("300", "3e2", Ordering::Equal),
            ("0", "-0.0", Ordering::Equal),
            ("1", "1.0000001", Ordering::Less),
            ("9007199254740993", "9007199254740992", Ordering::Greater),
            ("18446744073709551615", "18446744073709551615.0", Ordering::Less), // the float is 2^64
            ("-1", "0.5", Ordering::Less),
            ("1e300", "18446744073709551615", Ordering::Greater),
            ("1e37", "1e38", Ordering::Less),
            ("1e38", "1e39", Ordering::Less),
        ] {
            assert_eq!(num(left).cmp(&num(right)), order, "{left} {right}");
            assert_eq!(num(left) == num(right), order.is_eq(), "{left} {right}");
        }
        assert_eq!(num("3e2").to_string(), "300");
        assert_eq!(num("0.10").to_string(), "0.1");
    }

    proptest! {
        #[test]
        fn order_agrees_with_f64(left in any::<f64>(), right in any::<f64>()) {
            prop_assume!(left.is_finite() && right.is_finite());
            let num = |value| Num::from(&Number::from_f64(value).unwrap());
            prop_assert_eq!(num(left).partial_cmp(&num(right)), left.partial_cmp(&right));
            prop_assert_eq!(num(left).to_f64(), left);
        }

        #[test]
        fn whole_numbers_are_exact(left in any::<i64>(), right in any::<u64>()) {
            let (l, r) = (Num::from(&Number::from(left)), Num::from(&Number::from(right)));
            prop_assert_eq!(l.cmp(&r), i128::from(left).cmp(&i128::from(right)));
        }
    }
}
