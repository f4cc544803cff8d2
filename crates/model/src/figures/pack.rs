//! How figures are written: MessagePack, since Redis's scripts read and write that in C.
//!
//! An array of maps from numbers to numbers: first the counts by [`Count`]'s number, then each histogram, where
//! 0 is the sum and n + 1 is bucket n. Adding up is adding number by number, so a script needs to know nothing
//! of what they mean, and what a newer release counts besides survives an older one's adding. Lua writes a map
//! from 1, 2, … as an array; whoever reads takes either.

use super::{Count, Figures, Histogram, histogram::LAST};

impl Figures {
    /// Writes them.
    pub fn pack(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.push(0x94);
        let counts = self.counts.iter().zip(0u64..).filter(|(count, _)| **count > 0);
        write_map(&mut out, &counts.map(|(count, number)| (number, *count)).collect::<Vec<_>>());
        for histogram in [&self.publish_time, &self.consume_time, &self.delivery_time] {
            let (sum, buckets) = histogram.parts();
            let mut pairs: Vec<(u64, u64)> = Vec::with_capacity(buckets.len() + 1);
            if sum > 0 {
                pairs.push((0, sum));
            }
            pairs.extend(buckets.iter().map(|(bucket, count)| (u64::from(*bucket) + 1, *count)));
            write_map(&mut out, &pairs);
        }
        out
    }

    /// Reads what [`Figures::pack`] or a script wrote. `None` for anything else; what a newer release counts
    /// besides is passed over.
    pub fn unpack(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes);
        let mut figures = Self::default();
        for part in 0..input.array()? {
            for (key, value) in input.pairs()? {
                match part {
                    0 => {
                        if let Some(count) = usize::try_from(key).ok().and_then(|key| Count::ALL.get(key)) {
                            figures.add(*count, value);
                        }
                    }
                    1 => put(&mut figures.publish_time, key, value),
                    2 => put(&mut figures.consume_time, key, value),
                    3 => put(&mut figures.delivery_time, key, value),
                    _ => {}
                }
            }
        }
        input.0.is_empty().then_some(figures)
    }
}

fn put(histogram: &mut Histogram, key: u64, value: u64) {
    match key.checked_sub(1) {
        None => histogram.put_sum(value),
        Some(bucket) => {
            if let Some(bucket) = u16::try_from(bucket).ok().filter(|bucket| *bucket <= LAST) {
                histogram.put(bucket, value);
            }
        }
    }
}

fn write_map(out: &mut Vec<u8>, pairs: &[(u64, u64)]) {
    match u8::try_from(pairs.len()) {
        Ok(length @ 0..=15) => out.push(0x80 | length),
        _ => {
            out.push(0xde);
            // A histogram has fewer than 500 buckets.
            out.extend(u16::try_from(pairs.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    for (key, value) in pairs {
        write_number(out, *key);
        write_number(out, *value);
    }
}

fn write_number(out: &mut Vec<u8>, number: u64) {
    if let Ok(number) = u8::try_from(number) {
        if number > 0x7f {
            out.push(0xcc);
        }
        out.push(number);
    } else if let Ok(number) = u16::try_from(number) {
        out.push(0xcd);
        out.extend(number.to_be_bytes());
    } else if let Ok(number) = u32::try_from(number) {
        out.push(0xce);
        out.extend(number.to_be_bytes());
    } else {
        out.push(0xcf);
        out.extend(number.to_be_bytes());
    }
}

/// The most numbers that one map is read with: more than any histogram has.
const MOST: usize = 4_096;

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn length(&mut self, wide: bool) -> Option<usize> {
        let length =
            if wide { u32::from_be_bytes(self.take()?) } else { u16::from_be_bytes(self.take()?).into() };
        usize::try_from(length).ok().filter(|length| *length <= MOST)
    }

    fn array(&mut self) -> Option<usize> {
        match self.take::<1>()?[0] {
            head @ 0x90..=0x9f => Some(usize::from(head & 0x0f)),
            head @ 0xdc..=0xdd => self.length(head == 0xdd),
            _ => None,
        }
    }

    /// A map, or an array as the map from 1 that it stands for.
    fn pairs(&mut self) -> Option<Vec<(u64, u64)>> {
        let length = match self.0.first()? {
            0x90..=0x9f | 0xdc | 0xdd => {
                let length = self.array()?;
                return (1u64..).take(length).map(|key| Some((key, self.number()?))).collect();
            }
            _ => match self.take::<1>()?[0] {
                head @ 0x80..=0x8f => usize::from(head & 0x0f),
                head @ 0xde..=0xdf => self.length(head == 0xdf)?,
                _ => return None,
            },
        };
        (0..length).map(|_| Some((self.number()?, self.number()?))).collect()
    }

    fn number(&mut self) -> Option<u64> {
        Some(match self.take::<1>()?[0] {
            number @ 0..=0x7f => number.into(),
            0xcc => self.take::<1>()?[0].into(),
            0xcd => u16::from_be_bytes(self.take()?).into(),
            0xce => u32::from_be_bytes(self.take()?).into(),
            0xcf | 0xd3 => u64::from_be_bytes(self.take()?),
            // A script may write what it holds as a signed number.
            0xd1 => u64::try_from(i16::from_be_bytes(self.take()?)).ok()?,
            0xd2 => u64::try_from(i32::from_be_bytes(self.take()?)).ok()?,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_figures() -> impl Strategy<Value = Figures> {
        let numbers = || prop::collection::vec(any::<u64>().prop_map(|n| n >> (n % 60)), 0..40);
        (numbers(), numbers(), numbers(), numbers()).prop_map(|(counts, publish, consume, delivery)| {
            let mut figures = Figures::default();
            for (number, count) in counts.into_iter().enumerate() {
                if let Some(which) = Count::ALL.get(number % 20) {
                    figures.add(*which, count);
                }
            }
            for (histogram, numbers) in [
                (&mut figures.publish_time, publish),
                (&mut figures.consume_time, consume),
                (&mut figures.delivery_time, delivery),
            ] {
                numbers.into_iter().for_each(|number| histogram.record(number));
            }
            figures
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(figures in any_figures()) {
            prop_assert_eq!(Figures::unpack(&figures.pack()), Some(figures));
        }

        #[test]
        fn junk_is_none_and_breaks_nothing(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Figures::unpack(&bytes);
        }

        #[test]
        fn a_part_of_it_is_none(figures in any_figures(), at in 0.0f64..1.0) {
            let packed = figures.pack();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index")]
            let end = (packed.len() as f64 * at) as usize;
            prop_assert_eq!(Figures::unpack(&packed[..end]), None);
        }
    }

    #[test]
    fn what_lua_makes_of_it_is_read() {
        // { { 7, 9 }, {}, { [0] = 5, [6] = 1 }, {}, { [1] = 3 } }: an array for a map, and a part more.
        let bytes = [0x95, 0x92, 7, 9, 0x90, 0x82, 0, 5, 6, 1, 0x90, 0x91, 3];
        let figures = Figures::unpack(&bytes).unwrap();
        assert_eq!((figures[Count::PublishedBytes], figures[Count::PublishErrors]), (7, 9));
        assert_eq!((figures.consume_time.count(), figures.consume_time.mean()), (1, 5.0));
        // A count and a bucket of a newer release.
        assert_eq!(
            Figures::unpack(&[0x92, 0x81, 99, 1, 0x81, 0xcd, 0x03, 0xe8, 1]),
            Some(Figures::default())
        );
    }

    #[test]
    fn few_figures_take_few_bytes() {
        let mut figures = Figures::default();
        assert_eq!(figures.pack().len(), 5);
        figures.published(1_000, 800);
        assert_eq!(figures.pack().len(), 5 + 2 + 4 + 4 + 2);
    }
}
