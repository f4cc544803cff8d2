//! The demo's receiver and its five subscriptions, over an API that is up.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use postroad_model::signature::SecretKey;
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};

use super::{
    judge::{Seen, Sent, missing},
    plan::{SERVICE, WISHES},
    webhooks::Webhook,
};
use crate::{
    api::{Api, Message, Metadata, Subscribed},
    listen::{
        Http,
        output::{Output, Show},
        receiver::{Manners, Receiver},
    },
};

/// How many webhooks go in one bulk call.
pub const BULK: usize = 50;
const POLL: Duration = Duration::from_millis(10);
/// How long deliveries that nobody expects are waited for, at most.
const SETTLING: Duration = Duration::from_secs(10);

/// The receiver and its subscriptions.
pub struct Scene {
    api: Api,
    /// Where the receiver is.
    pub url: String,
    http: Http,
    /// The subscriptions' ids, in the order of the wishes.
    pub subscriptions: Vec<String>,
    seen: Arc<Mutex<Vec<Seen>>>,
    output: Arc<Mutex<Output>>,
}

impl Scene {
    /// Subscribes five times and starts to receive. What arrives is appended to `file`.
    pub async fn set(api: Api, file: &Path) -> anyhow::Result<Self> {
        clear(&api).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await.context("there is no port for the receiver")?;
        let url = format!("http://{}", listener.local_addr()?);
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let output = Arc::new(Mutex::new(Output::new(Show::Nothing, Some(file))?));
        let receiver = Receiver::new(Manners::GOOD, {
            let (seen, output) = (seen.clone(), output.clone());
            move |arrival| {
                let at = Instant::now();
                locked(&output).write(&arrival)?;
                locked(&seen).push(Seen { arrival, at });
                Ok(())
            }
        });
        let mut subscriptions = Vec::new();
        for wish in WISHES {
            let path = wish.path();
            let answer = api.subscribe(&wish.request(&format!("{url}{path}"))).await?;
            let Subscribed { subscription_id, secret } =
                serde_json::from_value(answer).context("the API answered no subscription")?;
            let key = SecretKey::parse(&secret).context("the API answered a secret that is none")?;
            receiver.trust(Some(&path), key);
            subscriptions.push(subscription_id);
        }
        Ok(Self { api, url, http: Http::start(listener, receiver), subscriptions, seen, output })
    }

    /// Publishes everything, in bulk; answers in the order of the webhooks.
    pub async fn publish(&self, webhooks: &[Webhook]) -> anyhow::Result<Vec<Sent>> {
        let mut sent = Vec::with_capacity(webhooks.len());
        for some in webhooks.chunks(BULK) {
            let names: Vec<(String, String)> =
                some.iter().map(|webhook| (webhook.channel(), webhook.routing_key())).collect();
            let messages: Vec<Message<'_>> = some
                .iter()
                .zip(&names)
                .map(|(webhook, (channel, routing_key))| Message {
                    channel,
                    payload: &webhook.payload,
                    routing_key: Some(routing_key),
                    ordering_key: None,
                    service_name: Some(SERVICE),
                    metadata: Metadata::default(),
                })
                .collect();
            let at = Instant::now();
            for result in self.api.publish_bulk(&messages).await? {
                if !result.success {
                    bail!("the API refused a webhook: {}", result.error.unwrap_or_default());
                }
                sent.push(Sent { message_id: result.message_id, at });
            }
        }
        Ok(sent)
    }

    /// Waits until all that is expected has arrived, and then until nothing is under way any more; but only for
    /// so long.
    pub async fn all_arrive(
        &self,
        webhooks: &[Webhook],
        sent: &[Sent],
        patience: Duration,
    ) -> anyhow::Result<()> {
        let expected = WISHES.map(|wish| (wish.path(), wish.expected(webhooks)));
        let end = Instant::now() + patience;
        let waits = |(path, expected): &(String, Vec<usize>)| {
            !missing(expected, sent, path, &locked(&self.seen)).is_empty()
        };
        while expected.iter().any(waits) {
            if Instant::now() > end {
                return Ok(());
            }
            sleep(POLL).await;
        }
        let end = Instant::now() + SETTLING;
        while Instant::now() < end && self.is_busy().await? {
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Whether more may arrive.
    async fn is_busy(&self) -> anyhow::Result<bool> {
        if self.api.health().await?["unrouted"]["count"] != 0 {
            return Ok(true);
        }
        for id in &self.subscriptions {
            if self.api.subscription(id).await?["queued"] != 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What has arrived so far.
    pub fn seen(&self) -> Vec<Seen> {
        locked(&self.seen).clone()
    }

    /// What the API says about a message's delivery to a subscription, in a few words.
    pub async fn state_of(&self, message_id: &str, subscription_id: &str) -> String {
        let Ok(answer) = self.api.deliveries(message_id).await else { return "unknown".to_owned() };
        let deliveries = answer["deliveries"].as_array().map(Vec::as_slice).unwrap_or_default();
        match deliveries.iter().find(|it| it["subscription_id"] == subscription_id) {
            Some(delivery) => {
                let attempts = delivery["attempts"].as_array().map_or(0, Vec::len);
                format!("{} (attempts: {attempts})", delivery["state"].as_str().unwrap_or("?"))
            }
            None => format!("not queued; the message is {}", answer["status"].as_str().unwrap_or("?")),
        }
    }

    /// From now on, shows what arrives.
    pub fn show(&self) {
        locked(&self.output).show(Show::Lines);
    }

    /// Cancels the subscriptions and stops receiving.
    pub async fn strike(self) -> anyhow::Result<()> {
        let cleared = clear(&self.api).await;
        self.http.stop().await;
        cleared
    }
}

/// Cancels what this or an earlier demo subscribed.
async fn clear(api: &Api) -> anyhow::Result<()> {
    for subscription in api.subscriptions(&[("service_name", SERVICE)]).await? {
        if let Some(id) = subscription["subscription_id"].as_str() {
            api.unsubscribe(id).await?;
        }
    }
    Ok(())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
