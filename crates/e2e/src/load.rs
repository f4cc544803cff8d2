//! Publishers that know the ids of all they publish.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::Town;

/// How long a message is offered again before a publisher gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two offers.
const PAUSE: Duration = Duration::from_millis(50);

/// A message to publish; its id is the publisher's.
#[derive(Debug, Clone)]
pub struct Post {
    /// `metadata.message_id`.
    pub id: String,
    /// The request's body.
    pub body: Value,
}

impl Post {
    /// A message with a small payload.
    pub fn new(id: impl Into<String>, channel: &str) -> Self {
        let id = id.into();
        let body = json!({
            "channel": channel,
            "payload": { "id": id, "text": "x".repeat(200) },
            "metadata": { "message_id": id },
        });
        Self { id, body }
    }

    /// Sets a member of the request.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.body[name] = value.into();
        self
    }
}

impl Town {
    /// Publishes until it is accepted, with the same id at each ingest in turn: after a 503, and after an
    /// error of unknown outcome. Any other refusal is an error.
    pub async fn publish(&self, post: &Post) -> Result<()> {
        let body = post.body.to_string();
        let started = Instant::now();
        loop {
            let api = self.next_ingest()?;
            let problem = match api.post("/v1/messages", body.clone()).await {
                Ok(answer) if answer.status == 202 || answer.status == 200 => return Ok(()),
                Ok(answer) if answer.status == 503 => answer.text(),
                Ok(answer) => bail!("{} was refused: {} {}", post.id, answer.status, answer.text()),
                Err(error) => format!("{error:#}"),
            };
            self.count_retry();
            ensure!(started.elapsed() < PATIENCE, "{} was not accepted in {PATIENCE:?}: {problem}", post.id);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Publishes many in one call until all are accepted.
    pub async fn publish_bulk(&self, posts: &[Post]) -> Result<()> {
        let mut left: Vec<&Post> = posts.iter().collect();
        let started = Instant::now();
        loop {
            let bodies: Vec<&Value> = left.iter().map(|post| &post.body).collect();
            let api = self.next_ingest()?;
            let problem = match api.post("/v1/messages/bulk", json!({ "messages": bodies }).to_string()).await
            {
                Ok(answer) if [202, 207].contains(&answer.status) => {
                    let results = answer.json();
                    let rows = results["results"].as_array().cloned().unwrap_or_default();
                    ensure!(rows.len() == left.len(), "{} rows for {} messages", rows.len(), left.len());
                    left = left
                        .into_iter()
                        .zip(rows)
                        .filter(|(_, row)| row["success"] != json!(true))
                        .map(|(post, _)| post)
                        .collect();
                    if left.is_empty() {
                        return Ok(());
                    }
                    answer.text()
                }
                Ok(answer) if answer.status == 503 => answer.text(),
                Ok(answer) => bail!("a bulk was refused: {} {}", answer.status, answer.text()),
                Err(error) => format!("{error:#}"),
            };
            self.count_retry();
            ensure!(
                started.elapsed() < PATIENCE,
                "{} were not accepted in {PATIENCE:?}: {problem}",
                left.len()
            );
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Starts publishers that take turns at the messages of `make` until `until` says that it is enough.
    /// `make` gets the message's number, from 0.
    pub fn load(
        self: &Arc<Self>,
        publishers: usize,
        pause: Duration,
        make: impl Fn(usize) -> Post + Send + Sync + 'static,
        until: impl Fn(usize) -> bool + Send + Sync + 'static,
    ) -> Load {
        let progress = Arc::new(Progress::default());
        let (make, until) = (Arc::new(make), Arc::new(until));
        let mut tasks = JoinSet::new();
        for _ in 0..publishers {
            let (town, progress) = (Arc::clone(self), Arc::clone(&progress));
            let (make, until) = (Arc::clone(&make), Arc::clone(&until));
            tasks.spawn(async move {
                while !until(progress.accepted.load(Ordering::Relaxed)) {
                    let post = make(progress.next.fetch_add(1, Ordering::Relaxed));
                    town.publish(&post).await?;
                    progress.ids.lock().unwrap_or_else(PoisonError::into_inner).insert(post.id);
                    progress.accepted.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(pause).await;
                }
                anyhow::Ok(())
            });
        }
        Load { progress, tasks }
    }
}

#[derive(Debug, Default)]
struct Progress {
    next: AtomicUsize,
    accepted: AtomicUsize,
    ids: Mutex<BTreeSet<String>>,
}

/// Publishers at work.
#[derive(Debug)]
pub struct Load {
    progress: Arc<Progress>,
    tasks: JoinSet<Result<()>>,
}

impl Load {
    /// How many messages were accepted so far.
    pub fn accepted(&self) -> usize {
        self.progress.accepted.load(Ordering::Relaxed)
    }

    /// Waits until so many are accepted, or the publishers have ended; an error if one of them failed.
    pub async fn reach(&mut self, accepted: usize) -> Result<()> {
        while self.accepted() < accepted && !self.tasks.is_empty() {
            tokio::select! {
                Some(ended) = self.tasks.join_next() => ended??,
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
        Ok(())
    }

    /// Waits until the publishers are done; all ids that were accepted.
    pub async fn done(mut self) -> Result<BTreeSet<String>> {
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(std::mem::take(&mut *self.progress.ids.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}
