//! Where a message and a subscription belong: partitions and lanes.
//!
//! Ingress is split into partitions, subscriptions into lanes. Both counts are fixed when an environment
//! first starts. The hash below is part of the stored format: it must never change.

use crate::{
    id::{MessageId, SubscriptionId, carried_partition},
    names::{ChannelName, OrderingKey, Tenant},
};

/// How many partitions and lanes an environment has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Ingress partitions, 1 to 1,024.
    pub partitions: u16,
    /// Lanes, 1 to 4,096.
    pub lanes: u16,
}

impl Default for Layout {
    fn default() -> Self {
        Self { partitions: 8, lanes: 64 }
    }
}

impl Layout {
    /// The partition of a message: of its ordering key where it has one, so that a key is one line; else
    /// the one that its id carries; else by tenant and id, so that a repeated publish meets its first.
    pub fn partition_of(
        self,
        tenant: &Tenant,
        channel: &ChannelName,
        id: &MessageId,
        ordering_key: Option<&OrderingKey>,
    ) -> u16 {
        match ordering_key {
            Some(key) => self.fold(&[tenant.as_str(), channel.as_str(), key.as_str()], self.partitions),
            None => self.partition_of_id(tenant, id),
        }
    }

    /// The partition of a message without an ordering key.
    pub fn partition_of_id(self, tenant: &Tenant, id: &MessageId) -> u16 {
        match carried_partition(id.as_str()) {
            Some(carried) => carried % self.partitions,
            None => self.fold(&[tenant.as_str(), id.as_str()], self.partitions),
        }
    }

    /// The partition in which the figures of a channel lie, or those of the tenant as a whole.
    pub fn partition_of_figures(self, tenant: &Tenant, channel: Option<&ChannelName>) -> u16 {
        self.fold(&[tenant.as_str(), channel.map_or("", ChannelName::as_str)], self.partitions)
    }

    /// The lane of a subscription.
    pub fn lane_of(self, subscription: &SubscriptionId) -> u16 {
        self.fold(&[subscription.as_str()], self.lanes)
    }

    fn fold(self, parts: &[&str], buckets: u16) -> u16 {
        u16::try_from(stable_hash(parts) % u64::from(buckets)).expect("below a u16")
    }
}

/// FNV-1a over the parts, each ended by a byte that no name holds, then mixed so that every bit counts.
pub fn stable_hash(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash ^= hash >> 30;
    hash = hash.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash ^= hash >> 27;
    hash = hash.wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Kind, mint, mint_in_partition};

    #[test]
    fn the_hash_never_changes() {
        assert_eq!(stable_hash(&["default", "order-1"]), 9_003_554_085_365_767_997);
        assert_ne!(stable_hash(&["ab", "c"]), stable_hash(&["a", "bc"]));
    }

    #[test]
    fn an_ordering_key_is_one_line_and_an_id_finds_its_partition() {
        let layout = Layout::default();
        let (tenant, channel) = (Tenant::single(), ChannelName::new("orders").unwrap());
        let key = OrderingKey::new("customer-7").unwrap();
        let made = MessageId::new(&mint_in_partition(Kind::Message, 1, 5, 9)).unwrap();
        let chosen = MessageId::new("order-1").unwrap();
        assert_eq!(layout.partition_of(&tenant, &channel, &made, None), 5);
        assert_eq!(
            layout.partition_of(&tenant, &channel, &made, Some(&key)),
            layout.partition_of(&tenant, &channel, &chosen, Some(&key)),
        );
        assert_eq!(
            layout.partition_of(&tenant, &channel, &chosen, None),
            layout.partition_of_id(&tenant, &chosen)
        );
    }

    #[test]
    fn lanes_fill_evenly() {
        let layout = Layout::default();
        let mut counts = vec![0u32; usize::from(layout.lanes)];
        for n in 0..6_400u128 {
            let id = SubscriptionId::new(&mint(Kind::Subscription, 1, n * 0x9e37_79b9)).unwrap();
            counts[usize::from(layout.lane_of(&id))] += 1;
        }
        assert!(counts.iter().all(|count| (50..=160).contains(count)), "{counts:?}");
    }
}
