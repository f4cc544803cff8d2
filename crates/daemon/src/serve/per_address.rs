//! Counts connections by where they come from.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

type Counts = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// At most so many at a time from one address.
pub(super) struct PerAddress {
    most: usize,
    counts: Counts,
}

/// One of an address's places, given back on drop.
pub(super) struct Place {
    held: Option<(IpAddr, Counts)>,
}

impl PerAddress {
    /// `most` 0: no bound, and nothing is counted.
    pub(super) fn new(most: usize) -> Self {
        Self { most, counts: Arc::default() }
    }

    /// A place, if there is one left. An IPv6 client has its whole /64, so that is what counts.
    pub(super) fn take(&self, address: IpAddr) -> Option<Place> {
        if self.most == 0 {
            return Some(Place { held: None });
        }
        let address = network(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place { held: Some((address, self.counts.clone())) })
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 => v4,
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((address, counts)) = self.held.take() else { return };
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_and_given_back() {
        let two = PerAddress::new(2);
        let at = |text: &str| two.take(text.parse().unwrap());
        let (one, _other) = (at("10.0.0.1").unwrap(), at("::ffff:10.0.0.1").unwrap());
        assert!(at("10.0.0.1").is_none());
        assert!(at("10.0.0.2").is_some());
        drop(one);
        assert!(at("10.0.0.1").is_some());
        let _six = (at("2000::1").unwrap(), at("2000::2").unwrap());
        assert!(at("2000::3").is_none() && at("2000:0:0:1::1").is_some());
        drop(_six);
        assert_eq!(two.counts.lock().unwrap().len(), 1, "nothing is kept of those who left");
    }

    #[test]
    fn zero_is_no_bound() {
        let none = PerAddress::new(0);
        assert!((0..1_000).map(|_| none.take("10.0.0.1".parse().unwrap())).all(|place| place.is_some()));
    }
}
