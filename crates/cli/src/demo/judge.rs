//! What arrived, held against what had to.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;

use super::{plan::Wish, webhooks::Webhook};
use crate::listen::arrival::{Arrival, Trust};

/// A webhook that was published.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The message's id.
    pub message_id: String,
    /// Just before it was sent.
    pub at: Instant,
}

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The request.
    pub arrival: Arrival,
    /// When it had arrived.
    pub at: Instant,
}

/// One subscription's result.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How many webhooks it had to get.
    pub expected: usize,
    /// How many of those it got.
    pub arrived: usize,
    /// Of those, how many only ever came with a good signature.
    pub verified: usize,
    /// Of those that arrived, how many only ever came as they were published.
    pub equal: usize,
    /// The places of those that are missing.
    pub missing: Vec<usize>,
    /// What arrived and should not have.
    pub extra: Vec<String>,
    /// What is wrong with what arrived, in words.
    pub wrong: Vec<String>,
    /// Deliveries that came again, which "at least once" permits.
    pub repeated: usize,
    /// From publishing to the first arrival, sorted.
    pub latencies: Vec<Duration>,
}

impl Verdict {
    /// Whether everything is as it should be.
    pub fn is_good(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty() && self.wrong.is_empty()
    }
}

/// Which of the expected webhooks have not arrived yet.
pub fn missing(expected: &[usize], sent: &[Sent], path: &str, seen: &[Seen]) -> Vec<usize> {
    let arrived: HashSet<&str> = at(path, seen).filter_map(|seen| id(&seen.arrival)).collect();
    expected.iter().copied().filter(|place| !arrived.contains(sent[*place].message_id.as_str())).collect()
}

/// Judges what one subscription got. `sent` has the webhooks' places.
pub fn judge(
    wish: &Wish,
    subscription_id: &str,
    webhooks: &[Webhook],
    sent: &[Sent],
    seen: &[Seen],
) -> Verdict {
    let path = wish.path();
    let expected = wish.expected(webhooks);
    let places: HashMap<&str, usize> =
        expected.iter().map(|place| (sent[*place].message_id.as_str(), *place)).collect();
    let mut verdict = Verdict {
        expected: expected.len(),
        missing: missing(&expected, sent, &path, seen),
        ..Verdict::default()
    };
    let (mut arrived, mut forged, mut changed) = (HashSet::new(), HashSet::new(), HashSet::new());
    for Seen { arrival, at } in at(&path, seen) {
        let Some(place) = id(arrival).and_then(|id| places.get(id)).copied() else {
            verdict.extra.push(id(arrival).unwrap_or("something without an id").to_owned());
            continue;
        };
        let webhook = &webhooks[place];
        if !arrived.insert(place) {
            verdict.repeated += 1;
        } else {
            verdict.latencies.push(at.duration_since(sent[place].at));
        }
        if let Trust::Refused(_) | Trust::Unchecked = &arrival.trust {
            forged.insert(place);
            verdict.wrong.push(format!("{}: {:?}", webhook.routing_key(), arrival.trust));
        }
        if let Some(difference) = difference(arrival, webhook, subscription_id) {
            changed.insert(place);
            verdict.wrong.push(format!("{}: {difference}", webhook.routing_key()));
        }
    }
    verdict.arrived = arrived.len();
    verdict.verified = arrived.difference(&forged).count();
    verdict.equal = arrived.difference(&changed).count();
    verdict.latencies.sort_unstable();
    verdict
}

fn at<'a>(path: &'a str, seen: &'a [Seen]) -> impl Iterator<Item = &'a Seen> {
    seen.iter().filter(move |seen| seen.arrival.path == path)
}

/// The message that an arrival says it is, as far as header and body agree.
fn id(arrival: &Arrival) -> Option<&str> {
    let in_body = arrival.delivery.as_ref()?.message_id.as_str();
    (arrival.webhook_id.as_deref() == Some(in_body)).then_some(in_body)
}

/// In what an arrival is not what was published.
fn difference(arrival: &Arrival, webhook: &Webhook, subscription_id: &str) -> Option<&'static str> {
    let delivery = arrival.delivery.as_ref()?;
    if delivery.payload.get() != webhook.payload.get() {
        Some("its payload is not the bytes that were published")
    } else if delivery.channel != webhook.channel() {
        Some("it names another channel")
    } else if delivery.routing_key.as_deref() != Some(webhook.routing_key().as_str()) {
        Some("it has another routing key")
    } else if delivery.subscription_id != subscription_id {
        Some("it names another subscription")
    } else {
        None
    }
}

/// The value below which a share of the sorted values lies (nearest rank).
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{
        super::{plan::WISHES, webhooks},
        *,
    };

    const SUBSCRIPTION: &str = "sub_1";

    struct Case {
        webhooks: Vec<Webhook>,
        sent: Vec<Sent>,
        seen: Vec<Seen>,
    }

    /// All that the first wish wants, arrived after 5 ms.
    fn good() -> Case {
        let webhooks = webhooks::all().unwrap();
        let start = Instant::now();
        let sent: Vec<Sent> =
            (0..webhooks.len()).map(|place| Sent { message_id: format!("msg_{place}"), at: start }).collect();
        let seen =
            WISHES[0].expected(&webhooks).into_iter().map(|place| seen(&webhooks, &sent, place)).collect();
        Case { webhooks, sent, seen }
    }

    fn seen(webhooks: &[Webhook], sent: &[Sent], place: usize) -> Seen {
        let (webhook, id) = (&webhooks[place], &sent[place].message_id);
        let body = format!(
            r#"{{"message_id":"{id}","subscription_id":"{SUBSCRIPTION}","channel":"{}","payload":{},"metadata":{{}},"delivery_attempt":1,"max_attempts":4,"routing_key":"{}"}}"#,
            webhook.channel(),
            webhook.payload.get(),
            webhook.routing_key()
        );
        let arrival = Arrival {
            at_ms: 0,
            path: "/exact".into(),
            webhook_id: Some(id.clone()),
            trust: Trust::Verified,
            status: 200,
            delivery: Some(serde_json::from_str(&body).unwrap()),
            body: Bytes::from(body),
        };
        Seen { arrival, at: sent[place].at + Duration::from_millis(5) }
    }

    fn judged(change: impl FnOnce(&mut Case)) -> Verdict {
        let mut case = good();
        change(&mut case);
        judge(&WISHES[0], SUBSCRIPTION, &case.webhooks, &case.sent, &case.seen)
    }

    #[test]
    fn what_is_right_is_good() {
        let verdict = judged(|_| {});
        assert!(verdict.is_good(), "{verdict:?}");
        assert_eq!((verdict.expected, verdict.arrived, verdict.verified, verdict.equal), (7, 7, 7, 7));
        assert_eq!(percentile(&verdict.latencies, 99), Duration::from_millis(5));
    }

    #[test]
    fn what_is_missing_extra_or_again_is_told() {
        let verdict = judged(|case| drop(case.seen.remove(2)));
        assert_eq!((verdict.missing.len(), verdict.arrived, verdict.is_good()), (1, 6, false));
        let verdict = judged(|case| case.seen.push(seen(&case.webhooks, &case.sent, 0)));
        assert_eq!((verdict.extra.as_slice(), verdict.is_good()), (&["msg_0".to_owned()][..], false));
        let verdict = judged(|case| case.seen.push(case.seen[0].clone()));
        assert_eq!((verdict.repeated, verdict.is_good()), (1, true));
        let elsewhere = judged(|case| case.seen[0].arrival.path = "/glob".into());
        assert_eq!(elsewhere.missing.len(), 1);
        let unnamed = judged(|case| case.seen[0].arrival.webhook_id = None);
        assert_eq!((unnamed.missing.len(), unnamed.extra.len()), (1, 1));
    }

    #[test]
    fn what_was_changed_or_forged_is_told() {
        let verdict = judged(|case| case.seen[0].arrival.trust = Trust::Unchecked);
        assert_eq!((verdict.verified, verdict.equal, verdict.is_good()), (6, 7, false));
        type Change = fn(&mut crate::listen::arrival::Delivery);
        let changes: [Change; 4] = [
            |it| it.payload = serde_json::from_str("{}").unwrap(),
            |it| it.channel.push('x'),
            |it| it.routing_key = None,
            |it| it.subscription_id.push('x'),
        ];
        for change in changes {
            let verdict = judged(|case| change(case.seen[3].arrival.delivery.as_mut().unwrap()));
            assert_eq!((verdict.equal, verdict.verified, verdict.is_good()), (6, 7, false), "{verdict:?}");
        }
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let ms: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!([50, 99, 100].map(|p| percentile(&ms, p).as_millis()), [100, 198, 200]);
        assert_eq!(percentile(&ms[..1], 50), ms[0]);
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }
}
