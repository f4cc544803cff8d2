//! Every key's name, in one place.
//!
//! A key is `<environment>:{<tag>}:<name>`. What must move together shares a tag, and with it a slot of
//! Redis Cluster: a partition of ingress, a lane of subscriptions, or the one control tag. Scripts are
//! given the prefix up to the name and append names from the constants below, which are also put in front
//! of every script's text, so that a name stands nowhere else.

use std::fmt;

use postroad_model::placement::Layout;

/// Slots of Redis Cluster.
const SLOTS: u32 = 16_384;

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $text;)*

        /// The constants as Lua locals, for the head of every script.
        pub(crate) fn lua_names() -> String {
            let mut text = String::new();
            $(text.push_str(concat!("local ", stringify!($name), " = '", $text, "'\n"));)*
            text
        }
    };
}

names! {
    // A partition.
    /// Stream: accepted messages in the order of acceptance.
    INGRESS = "ingress";
    /// The one group on ingress: its last delivered id is how far everything is routed.
    ROUTER = "router";
    /// Hash: which router owns the partition (name, epoch, renewed).
    OWNER = "owner";
    /// Hash: lane → the highest ingress id sent there.
    SENT = "sent";
    /// Hash: `gate` is the run_id of the server that last accepted here, `ahead` the time to which ids were
    /// moved forward then, `depth:<window>` how deep a window of the id index goes, `delayed` the bytes of what
    /// waits to become due.
    DOOR = "door";
    /// Hashes `ids:<window>:<depth>:<slot>`: digest of an id → ingress id and time of acceptance.
    IDS = "ids:";
    /// Sorted set: tenant/channel by last publish.
    CHANNELS = "channels";
    /// Sorted set: messages that are not due yet, `<number>:<digest>`, by due time.
    DELAYED = "delayed";
    /// Hashes `delayed:<slot>`: digest → what waits: when it was published, its channel, its record.
    BODIES = "delayed:";
    /// Hashes `again:<window>`: a message's first id → the generation of its newest replay, and whose that is.
    GENERATIONS = "again:";
    /// Stream: entries of ingress that nobody could decode.
    QUARANTINE = "dead";
    /// Hashes `figures:minutes:<hour>:<tenant>/<channel>`: minute of the hour → figures. No channel: the tenant's.
    FIGURES_MINUTES = "figures:minutes:";
    /// Hashes `figures:hours:<four days>:<tenant>/<channel>`: hour of the four days → figures.
    FIGURES_HOURS = "figures:hours:";
    /// Hashes `figures:total:<tenant>/<channel>`: figures since first use, first use, last activity.
    FIGURES_TOTAL = "figures:total:";
    /// Sorted sets `figures:channels:<tenant>`: channels that have figures here, by last activity.
    FIGURES_CHANNELS = "figures:channels:";
    /// Strings `figures:by:<instance>`: the last flush of an instance that was added here.
    FIGURES_BY = "figures:by:";
    /// Hashes `response:<tenant>/<command>`: what a command was answered; and the channels that tell of it.
    RESPONSE = "response:";
    /// Streams `tail:<tenant>/<tail>`: a tenant's newest notifications, by whom they are for; and the channels
    /// that tell of them.
    TAIL = "tail:";
    /// Hash: tenant → the newest id of its tails.
    TAILS = "tails";
    /// Strings `notified:<tenant>/<notification>`: its id in its tail.
    NOTIFIED = "notified:";
    /// Hashes `services:<tenant>`: service → its last health message.
    SERVICES = "services:";
    /// Sorted sets `heard:<tenant>`: services by when they were last heard.
    HEARD = "heard:";

    // A lane.
    /// Hash: partition → the highest ingress id that this lane has taken.
    MARKS = "marks";
    /// Stream: one token per subscription with work and credit.
    READY = "ready";
    /// Hashes `sub:<id>`: a subscription's settings and running state.
    SUB = "sub:";
    /// Streams `work:<id>:<rank>`: its queues, one per priority.
    WORK = "work:";
    /// The one group on a queue.
    GROUP = "g";
    /// Hashes `tries:<id>`: rank:entry → progress and attempts of deliveries that have failed.
    TRIES = "tries:";
    /// Sorted set: everything that waits for a time, by due time.
    TIMERS = "timers";
    /// Hashes `locks:<id>`: ordering key → rank:entry of the one delivery of it that may be out.
    LOCKS = "locks:";
    /// Sorted sets `held:<id>`: `<ordering key>:<entry>` of deliveries that wait behind their key's lock.
    HELD = "held:";
    /// Sorted sets `expiry:<id>`: rank:entry by when it expires.
    EXPIRY = "expiry:";
    /// Signals `pull:<id>`: there is something to be pulled.
    PULL = "pull:";
    /// Set: subscriptions whose queues hold entries.
    LIVE = "live";
    /// Streams `dead:<id>`: dead letters.
    DEAD = "dead:";
    /// Set: subscriptions that have dead letters.
    DEADS = "deads";
    /// Stream: what must leave the lane as a message or a change of settings.
    OUTBOX = "outbox";
    /// Strings `trace:<partition>:<ingress id>`: what a message's deliveries have been through here.
    TRACE = "trace:";
    /// Hash: job → what it has moved here, and under which epoch it may. In a partition too.
    JOBS = "jobs";

    // The control tag.
    /// Hash: partition and lane counts, fixed at first start.
    LAYOUT = "layout";
    /// Hash: subscription → its record.
    SUBS = "subs";
    /// Hash: subscription → its newest change.
    CHANGED = "changed";
    /// Sorted sets `tenant:<tenant>`: a tenant's subscriptions, by id.
    TENANT = "tenant:";
    /// Stream: changes of configuration.
    CHANGES = "changes";
    /// Sorted set `<subscription> <change>` by time: changes that may not have reached their lane.
    UNAPPLIED = "unapplied";
    /// Hash: tenant/channel → its settings.
    SETTINGS = "channels";
    /// Hash: tenant → how many channels it has configured.
    CONFIGURED = "configured";
    /// Hashes `named:<tenant>/<channel>`: subscription that names the channel → its service.
    NAMED = "named:";
    /// Bitmaps `up:<day>`: minutes of the day (by Redis's clock) in which an API was ready; gone after 32 days.
    UP = "up:";
    /// Sorted set: living instances by when they were last heard.
    MEMBERS = "members";
    /// Hash: instance → its description.
    ABOUT = "about";
    /// Hashes `job:<id>`: replay jobs.
    JOB = "job:";
    /// Sorted set: replay jobs by when they were made.
    JOB_LIST = "job-list";
    /// Hashes `types:<tenant>`: event type → its record.
    TYPES = "types:";
    /// Hash: tenant → the version of its event types, which rises with each change.
    TYPES_VERSION = "types-version";
    /// Strings `ticket:<ticket>`: whose notifications it opens, once.
    TICKET = "ticket:";
}

/// What shares a slot: a partition, a lane, or control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tag {
    /// A partition of ingress.
    Partition(u16),
    /// A lane.
    Lane(u16),
    /// Control.
    Ctl,
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(n) => write!(f, "partition {n}"),
            Self::Lane(n) => write!(f, "lane {n}"),
            Self::Ctl => f.write_str("control"),
        }
    }
}

/// The prefixes of one environment.
#[derive(Debug)]
pub struct Keys {
    partitions: Vec<String>,
    lanes: Vec<String>,
    ctl: String,
}

impl Keys {
    /// Lays out an environment's prefixes. Each partition's and each lane's tag is the first of its
    /// family whose slot lies in its share of the slots, so that they spread evenly over any number of
    /// primaries.
    pub fn new(environment: &str, layout: Layout) -> Self {
        let family = |letter: char, count: u16| {
            (0..count).map(|n| format!("{environment}:{{{}}}:", spread(letter, n, count))).collect()
        };
        Self {
            partitions: family('p', layout.partitions),
            lanes: family('l', layout.lanes),
            ctl: format!("{environment}:{{ctl}}:"),
        }
    }

    /// The prefix of everything with a tag.
    pub fn prefix(&self, tag: Tag) -> &str {
        match tag {
            Tag::Partition(n) => &self.partitions[usize::from(n)],
            Tag::Lane(n) => &self.lanes[usize::from(n)],
            Tag::Ctl => &self.ctl,
        }
    }

    /// A key.
    pub fn key(&self, tag: Tag, name: &str) -> String {
        format!("{}{name}", self.prefix(tag))
    }
}

fn spread(letter: char, n: u16, count: u16) -> String {
    let (n, count) = (u32::from(n), u32::from(count));
    let share = n * SLOTS / count..(n + 1) * SLOTS / count;
    (0u32..)
        .map(|suffix| format!("{letter}{n}.{suffix}"))
        .find(|tag| share.contains(&(u32::from(crc16(tag.as_bytes())) % SLOTS)))
        .unwrap_or_default()
}

/// CRC16 as Redis Cluster uses it (XMODEM).
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_have_names() {
        let names = [Tag::Partition(3), Tag::Lane(61), Tag::Ctl].map(|tag| tag.to_string());
        assert_eq!(names, ["partition 3", "lane 61", "control"]);
    }

    #[test]
    fn the_hash_is_rediss() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
    }

    #[test]
    fn tags_spread_evenly_over_any_number_of_primaries() {
        let keys = Keys::new("test", Layout::default());
        let slot = |prefix: &String| {
            let tag = &prefix[prefix.find('{').unwrap() + 1..prefix.find('}').unwrap()];
            usize::from(crc16(tag.as_bytes())) % 16_384
        };
        for (family, most_apart) in [(&keys.partitions, 1), (&keys.lanes, 1)] {
            for primaries in [1, 2, 3, 4, 8] {
                let mut counts = vec![0usize; primaries];
                for prefix in family {
                    counts[slot(prefix) * primaries / 16_384] += 1;
                }
                let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                assert!(most - least <= most_apart, "{primaries} primaries: {counts:?}");
            }
        }
    }

    #[test]
    fn keys_carry_environment_and_tag() {
        let keys = Keys::new("staging", Layout { partitions: 1, lanes: 1 });
        assert_eq!(keys.key(Tag::Ctl, SUBS), "staging:{ctl}:subs");
        assert!(keys.key(Tag::Lane(0), READY).starts_with("staging:{l0."));
    }

    #[test]
    fn scripts_get_every_name() {
        assert!(lua_names().contains("local INGRESS = 'ingress'\n"));
    }
}
