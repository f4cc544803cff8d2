//! Which dead letters are meant: one set of filters for looking, replaying, purging and exporting.

use aho_corasick::AhoCorasick;
use postroad_model::{
    delivery::{Attempt, DeadReason},
    id::SubscriptionId,
    names::{ChannelName, NameError, Tenant},
    time::Time,
};
use postroad_store::StreamId;
use serde::{Deserialize, Serialize};

use crate::{dead::Queue, error::Error, letter::Letter};

/// Filters as they are asked for; what is not named matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    /// The subscription.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_id: Option<String>,
    /// The message's channel, or the subscription's `dead_letter_queue`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// The message's channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Why it died.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The status code of the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// It died then or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// It died then or earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Stands in the payload, or in an attempt's error or response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// The longest `text`, in bytes.
const MAX_TEXT: usize = 256;
/// By how much a dead letter's id may lie behind the time of its death: ids never go back when a clock does.
const CLOCK_STEP_MS: u64 = 3_600_000;
/// By how much it may lie before it, which takes a clock that is stepped inside one script.
const CLOCK_SLACK_MS: u64 = 60_000;

/// Filters, checked.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// The subscription.
    pub subscription: Option<SubscriptionId>,
    queue: Option<ChannelName>,
    channel: Option<ChannelName>,
    reason: Option<DeadReason>,
    status_code: Option<u16>,
    from_ms: Option<u64>,
    to_ms: Option<u64>,
    text: Option<AhoCorasick>,
}

fn named(field: &'static str, value: &str) -> impl FnOnce(NameError) -> Error {
    let value: String = value.chars().take(100).collect();
    move |error| Error::field(field, format!("{field} = {value:?} can be none: it {}", error.problem))
}

fn time(field: &'static str, value: Option<&String>) -> Result<Option<u64>, Error> {
    let read = |text: &String| {
        Time::parse(text)
            .map(Time::as_millis)
            .map_err(|problem| Error::field(field, format!("{field} = {problem}")))
    };
    value.map(read).transpose()
}

fn reason(text: &str) -> Result<DeadReason, Error> {
    DeadReason::parse(text).ok_or_else(|| {
        let known = DeadReason::ALL.map(DeadReason::as_str).join(", ");
        let text: String = text.chars().take(100).collect();
        Error::field("reason", format!("reason = {text:?} is none; {known} are"))
    })
}

fn words(text: &str) -> Result<AhoCorasick, Error> {
    if text.is_empty() || text.len() > MAX_TEXT {
        let problem = format!("text is {} bytes long; 1 to {MAX_TEXT} are allowed", text.len());
        return Err(Error::field("text", problem));
    }
    AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .build([text])
        .map_err(|error| Error::field("text", format!("text cannot be looked for: {error}")))
}

impl Filter {
    /// Checks what was asked for.
    pub fn new(wanted: &Wanted) -> Result<Self, Error> {
        let channel = |field: &'static str, value: &Option<String>| {
            value.as_ref().map(|name| ChannelName::new(name).map_err(named(field, name))).transpose()
        };
        let status_code = wanted.status_code;
        if let Some(code) = status_code.filter(|code| !(100..=999).contains(code)) {
            return Err(Error::field("status_code", format!("status_code = {code} must be 100 to 999")));
        }
        let (from_ms, to_ms) = (time("from", wanted.from.as_ref())?, time("to", wanted.to.as_ref())?);
        if let (Some(from), Some(to)) = (from_ms, to_ms)
            && from > to
        {
            let (from, to) = (Time::from_millis(from), Time::from_millis(to));
            return Err(Error::field("from", format!("from = {from} lies behind to = {to}")));
        }
        let subscription = wanted.subscription_id.as_ref();
        Ok(Self {
            subscription: subscription
                .map(|id| SubscriptionId::new(id).map_err(named("subscription_id", id)))
                .transpose()?,
            queue: channel("queue", &wanted.queue)?,
            channel: channel("channel", &wanted.channel)?,
            reason: wanted.reason.as_deref().map(reason).transpose()?,
            status_code,
            from_ms,
            to_ms,
            text: wanted.text.as_deref().map(words).transpose()?,
        })
    }

    /// All of one subscription.
    pub fn of(subscription: SubscriptionId) -> Self {
        Self { subscription: Some(subscription), ..Self::default() }
    }

    /// Whether every dead letter of the subscriptions looked at is meant.
    pub fn is_whole(&self) -> bool {
        let Self { subscription: _, queue, channel, reason, status_code, from_ms, to_ms, text } = self;
        let names = queue.is_some() || channel.is_some() || text.is_some();
        !names && reason.is_none() && status_code.is_none() && from_ms.is_none() && to_ms.is_none()
    }

    /// Behind which id letters may match.
    pub fn after(&self) -> StreamId {
        let ms = self.from_ms.map_or(0, |from| from.saturating_sub(CLOCK_SLACK_MS));
        StreamId { ms, seq: 0 }
    }

    /// Before which id letters may match; `None`: before any.
    pub fn below(&self) -> Option<StreamId> {
        self.to_ms.map(|to| StreamId { ms: to.saturating_add(CLOCK_STEP_MS), seq: 0 })
    }

    /// Whether a dead letter is meant: it is the tenant's, and all that is named matches.
    pub fn matches(&self, tenant: &Tenant, queue: &Queue, letter: &Letter) -> bool {
        letter.is_of(tenant)
            && self.reason.is_none_or(|reason| letter.dead.reason == Some(reason))
            && self.from_ms.is_none_or(|from| letter.dead.died_ms >= from)
            && self.to_ms.is_none_or(|to| letter.dead.died_ms <= to)
            && self.status_code.is_none_or(|code| letter.last().and_then(|last| last.status) == Some(code))
            && self.channel.as_ref().is_none_or(|channel| letter.channel() == Some(channel))
            && self.queue.as_ref().is_none_or(|name| {
                letter.channel() == Some(name) || queue.dead_letter_queue.as_ref() == Some(name)
            })
            && self.text.as_ref().is_none_or(|text| holds(text, letter))
    }
}

fn holds(text: &AhoCorasick, letter: &Letter) -> bool {
    let said = |attempt: &Attempt| {
        [&attempt.error, &attempt.response].into_iter().flatten().any(|words| text.is_match(words))
    };
    letter.contents().into_iter().any(|bytes| text.is_match(bytes))
        || letter.dead.tries.attempts.iter().any(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Wanted)) -> &'static str {
        let mut wanted = Wanted::default();
        change(&mut wanted);
        match Filter::new(&wanted) {
            Err(Error::Field { field, problem }) => {
                assert!(problem.contains(field), "{problem}");
                field
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn refusals_name_the_field() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(refused(|wanted| wanted.subscription_id = text("{l0}")), "subscription_id");
        assert_eq!(refused(|wanted| wanted.subscription_id = text("")), "subscription_id");
        assert_eq!(refused(|wanted| wanted.queue = text("a b")), "queue");
        assert_eq!(refused(|wanted| wanted.channel = text("a..b")), "channel");
        assert_eq!(refused(|wanted| wanted.reason = text("bored")), "reason");
        assert_eq!(refused(|wanted| wanted.status_code = Some(7)), "status_code");
        assert_eq!(refused(|wanted| wanted.from = text("yesterday")), "from");
        assert_eq!(refused(|wanted| wanted.to = text("2024-01-15")), "to");
        assert_eq!(refused(|wanted| wanted.text = text(&"x".repeat(257))), "text");
        let backwards = |wanted: &mut Wanted| {
            (wanted.from, wanted.to) = (text("2024-01-02T00:00:00Z"), text("2024-01-01T00:00:00Z"));
        };
        assert_eq!(refused(backwards), "from");
    }

    #[test]
    fn nothing_named_means_everything() {
        assert!(Filter::new(&Wanted::default()).unwrap().is_whole());
        let one = Wanted { subscription_id: Some("sub_1".into()), ..Wanted::default() };
        assert!(Filter::new(&one).unwrap().is_whole());
        let some = Wanted { status_code: Some(500), ..Wanted::default() };
        assert!(!Filter::new(&some).unwrap().is_whole());
    }
}
