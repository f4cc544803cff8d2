//! Copies of dead letters for the channel that their subscription names, left in the lane's outbox.

use std::time::Duration;

use super::kit::*;
use postroad_model::{
    delivery::{DeadReason, Place},
    names::ChannelName,
    subscription::Subscription,
};
use postroad_store::{DeadLetterId, StreamId};

async fn notes(road: &Road) -> Vec<(String, String, String, String)> {
    let lanes: Vec<(u16, StreamId)> = (0..LAYOUT.lanes).map(|lane| (lane, StreamId::ZERO)).collect();
    let notes = road.store.outbox(&lanes).await.unwrap();
    let mut told = Vec::new();
    for note in notes {
        let copy = note.copy.unwrap();
        assert_eq!(note.kind, "dead");
        let subscription = postroad_model::id::SubscriptionId::new(&note.subscription).unwrap();
        let id = DeadLetterId { subscription, entry: copy.dead };
        let letter = road.store.dead_letter(&id).await.unwrap().unwrap();
        let id = letter.entry.decode().unwrap().id.to_string();
        told.push((note.subscription, copy.channel, note.reason, id));
    }
    told
}

fn note(sub: &Subscription, reason: &str, id: &str) -> (String, String, String, String) {
    (sub.id.to_string(), "orders.dead".to_owned(), reason.to_owned(), id.to_owned())
}

async fn subscribed(road: &Road) -> Subscription {
    road.subscribe(|sub| sub.dead_letter_queue = Some(ChannelName::new("orders.dead").unwrap())).await
}

#[tokio::test]
async fn however_it_dies_a_copy_leaves_the_lane() {
    let mut road = Road::new().await;
    let sub = subscribed(&road).await;
    road.queue(&sub, &["rejected"]).await;
    let lease = road.take_one("w-1", &sub).await;
    let settled = road.settle("w-1", vec![put(lease, Place::Dead(DeadReason::Rejected))]).await;
    assert!(settled.notes);
    let brief = Terms { lives_ms: Some(1), ..Terms::default() };
    road.queue_as(&sub, &[("expired", brief)]).await;
    tokio::time::sleep(Duration::from_millis(3)).await;
    assert!(road.promote("w-1", &sub).await.notes);
    let short = Terms { max_length: Some(1), ..Terms::default() };
    road.queue_as(&sub, &[("pushed-out", short), ("stays", short)]).await;
    assert_eq!(
        notes(&road).await,
        [
            note(&sub, "rejected", "rejected"),
            note(&sub, "expired", "expired"),
            note(&sub, "maxlen", "pushed-out")
        ]
    );
    assert_eq!(road.dead(&sub).await.len(), 3, "the dead letters stay");
    road.check().await;
}

#[tokio::test]
async fn without_a_channel_there_is_none() {
    let mut road = Road::new().await;
    let mut sub = subscribed(&road).await;
    road.change(&mut sub, |sub| sub.dead_letter_queue = None).await;
    road.queue(&sub, &["a"]).await;
    let lease = road.take_one("w-1", &sub).await;
    let settled = road.settle("w-1", vec![put(lease, Place::Dead(DeadReason::Rejected))]).await;
    assert!(!settled.notes && notes(&road).await.is_empty());
}

#[tokio::test]
async fn a_note_that_was_carried_out_is_gone() {
    let mut road = Road::new().await;
    let sub = subscribed(&road).await;
    road.queue(&sub, &["a"]).await;
    let lease = road.take_one("w-1", &sub).await;
    road.settle("w-1", vec![put(lease, Place::Dead(DeadReason::Rejected))]).await;
    let found = road.store.outbox(&[(LAYOUT.lane_of(&sub.id), StreamId::ZERO)]).await.unwrap();
    for _ in 0..2 {
        road.store.outbox_done(&found[0]).await.unwrap();
        assert!(notes(&road).await.is_empty());
    }
}
