//! Several deliveries in one request: `{"deliveries": […]}`, or a batch of CloudEvents.
//!
//! Who asked for batches always gets them, also of one: a receiver reads one shape only. `webhook-id` is then made
//! of what is inside, so a batch that is sent again as it was has the id that it had.

use std::fmt::Write;

use postroad_model::{cloud_event::BATCH_JSON, subscription::Format, trace_context::TraceParent};
use reqwest::{Request, Url};
use sha2::{Digest, Sha256};

use super::{About, Content, Sending, cloud_event, native, request, trace_of};
use crate::targets::Target;

/// The most bytes of a body with more than one delivery.
pub const MAX_BYTES: usize = 1 << 20;

/// What a body begins and ends with, and its type.
struct Frame {
    open: &'static str,
    close: &'static str,
    content_type: &'static str,
}

const NATIVE: Frame = Frame { open: r#"{"deliveries":["#, close: "]}", content_type: native::ONE };
const EVENTS: Frame = Frame { open: "[", close: "]", content_type: BATCH_JSON };

/// A delivery as it stands inside a batch.
pub fn member(target: &Target, sending: Sending<'_>, now_ms: u64) -> Vec<u8> {
    match target.subscription.format {
        Format::Cloudevents => cloud_event::structured(sending),
        _ => native::delivery(target, sending, now_ms),
    }
}

/// Where to cut deliveries into requests: how many go into each, in order. Of each there are its bytes and with what
/// it goes: with neighbours of the same generation, which the header tells of all, or alone (none). At most `most`
/// stand together, with at most [`MAX_BYTES`] in all; one that is larger is alone.
pub fn cut(deliveries: &[(usize, Option<u32>)], most: usize) -> Vec<usize> {
    let empty = NATIVE.open.len() + NATIVE.close.len();
    let mut parts: Vec<usize> = Vec::new();
    let (mut bytes, mut before) = (0, None);
    for (size, generation) in deliveries {
        let fits = generation.is_some() && *generation == before && bytes + size <= MAX_BYTES;
        match parts.last_mut() {
            Some(count) if fits && *count < most => *count += 1,
            _ => {
                parts.push(1);
                bytes = empty;
            }
        }
        // And a comma.
        bytes += size + 1;
        before = *generation;
    }
    parts
}

/// Builds the request of one attempt at some deliveries, each with its [`member`].
pub fn build(
    target: &Target,
    url: &Url,
    sendings: &[Sending<'_>],
    members: &[Vec<u8>],
    now_ms: u64,
    span: u64,
) -> Request {
    let Frame { open, close, content_type } = match target.subscription.format {
        Format::Cloudevents => EVENTS,
        _ => NATIVE,
    };
    let mut body = Vec::with_capacity(members.iter().map(|member| member.len() + 1).sum::<usize>() + 20);
    body.extend_from_slice(open.as_bytes());
    body.extend_from_slice(&members.join(&b','));
    body.extend_from_slice(close.as_bytes());
    let content = Content::json(content_type, body);
    let webhook_id = id(sendings);
    let first = sendings.first().map(|sending| sending.message);
    let about = About {
        webhook_id: &webhook_id,
        generation: first.map_or(0, |message| message.generation),
        is_test: first.is_some_and(|message| message.test),
        trace: match sendings {
            [alone] => trace_of(alone.message),
            // Each has a trace of its own, and one request cannot belong to all of them.
            _ => TraceParent::of_text(&webhook_id),
        },
    };
    request(target, url, &about, content, now_ms, span)
}

/// `bat_` and a hash of the deliveries and the numbers of their attempts.
fn id(sendings: &[Sending<'_>]) -> String {
    let mut hash = Sha256::new();
    for Sending { message, attempt } in sendings {
        hash.update(format!("{} {} {attempt}\n", message.id, message.generation));
    }
    let mut id = String::from("bat_");
    for byte in &hash.finalize()[..16] {
        let _ = write!(id, "{byte:02x}");
    }
    id
}
