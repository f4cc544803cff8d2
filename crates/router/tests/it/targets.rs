//! Messages that say to whom they go.

use std::sync::Arc;

use postroad_model::{
    id::SubscriptionId,
    message::Message,
    names::{ChannelName, Tenant},
    subscription::{Channels, Status},
};
use postroad_testkit::wait::eventually;

use super::kit::*;

#[tokio::test]
async fn targets_of_the_same_tenant_get_it_and_nobody_else() {
    let town = Town::new().await;
    let elsewhere = Channels::Channel(ChannelName::new("elsewhere").unwrap());
    let other = Tenant::new("other").unwrap();
    let matching = town.subscribe(|_| {}).await;
    let named = town.subscribe(|sub| sub.selector.channels = elsewhere.clone()).await;
    let paused = town.subscribe(|sub| sub.status = Status::Paused).await;
    let foreign = town.subscribe(|sub| sub.tenant = other.clone()).await;
    let _router = town.router();
    let targets = [&named, &paused, &foreign].map(|sub| sub.id.clone());
    let targets: Vec<SubscriptionId> =
        targets.into_iter().chain([SubscriptionId::new("sub_gone").unwrap()]).collect();
    let targeted = Message { targets: Arc::from(targets), ..message("targeted") };
    let flight = [(0, vec![acceptance(&targeted, None), acceptance(&message("plain"), None)])];
    town.store.accept(&flight, WINDOW).await.unwrap().remove(0).unwrap();

    let ids = async |sub| -> Vec<String> {
        town.queued(sub).await.into_iter().map(|(message, _)| message.id.to_string()).collect()
    };
    // One partition, one line: when the second is there, the first has been routed.
    for (sub, expected) in
        [(&matching, &["plain"][..]), (&named, &["targeted"]), (&paused, &["targeted", "plain"])]
    {
        eventually(PATIENCE, "both to be routed", async || {
            let there = ids(sub).await;
            if there == expected { Ok(()) } else { Err(format!("{there:?}")) }
        })
        .await
        .unwrap();
    }
    assert!(ids(&foreign).await.is_empty());
}
