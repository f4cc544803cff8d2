//! The yardstick of `drain`: one loop of `XREADGROUP`, POST, `XACK` and `XDEL`, with the same HTTP client and
//! as much in flight, but without credit, fairness, signatures, traces, retries or a second worker's rights.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use postroad_model::egress::EgressPolicy;
use postroad_worker::client::Callbacks;
use redis::{Value, streams::StreamReadReply};
use reqwest::{Body, Method, Request, Url};
use tokio::sync::Semaphore;

/// What the loop is told.
#[derive(Debug, Clone, Args)]
pub struct BareArgs {
    /// Where Redis is.
    #[arg(long)]
    redis_url: String,
    /// The stream; its group is `g`, its entries have a body `b`.
    #[arg(long)]
    stream: String,
    /// Where to POST.
    #[arg(long)]
    target: Url,
    /// The most in flight.
    #[arg(long)]
    in_flight: usize,
}

/// Loops until it is killed.
pub async fn run(args: BareArgs) -> anyhow::Result<()> {
    let policy = EgressPolicy::parse(["127.0.0.0/8"]).map_err(|error| anyhow::anyhow!("{error}"))?;
    let callbacks =
        Arc::new(Callbacks::new(policy, Duration::from_secs(5), Duration::from_secs(15), args.in_flight)?);
    let client = redis::Client::open(args.redis_url)?;
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let mut reader = client.get_multiplexed_async_connection_with_config(&config).await?;
    let writer = client.get_multiplexed_async_connection_with_config(&config).await?;
    let places = Arc::new(Semaphore::new(args.in_flight));
    println!("ready");
    loop {
        let free = places.available_permits().clamp(1, 128);
        let mut first = Some(Arc::clone(&places).acquire_owned().await?);
        let reply: Option<StreamReadReply> = redis::cmd("XREADGROUP")
            .arg(&["GROUP", "g", "bare", "COUNT"])
            .arg(free)
            .arg(&["BLOCK", "1000", "STREAMS", args.stream.as_str(), ">"])
            .query_async(&mut reader)
            .await?;
        for entry in reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids) {
            let place = match first.take() {
                Some(place) => place,
                None => Arc::clone(&places).acquire_owned().await?,
            };
            let Some(Value::BulkString(body)) = entry.map.get("b").cloned() else { continue };
            let (callbacks, mut writer) = (Arc::clone(&callbacks), writer.clone());
            let (stream, target) = (args.stream.clone(), args.target.clone());
            tokio::spawn(async move {
                let mut request = Request::new(Method::POST, target);
                *request.body_mut() = Some(Body::from(Bytes::from(body)));
                let answer = callbacks.send(request, 0).await;
                if answer.is_ok_and(|answer| answer.status == 200) {
                    let mut done = redis::pipe();
                    done.cmd("XACK").arg(&stream).arg("g").arg(&entry.id).ignore();
                    done.cmd("XDEL").arg(&stream).arg(&entry.id).ignore();
                    let _: redis::RedisResult<()> = done.query_async(&mut writer).await;
                }
                drop(place);
            });
        }
    }
}

/// Fills a stream with so many bodies, for the loop to drain.
pub async fn fill(redis_url: &str, stream: &str, count: u64, body: &str) -> anyhow::Result<()> {
    let client = redis::Client::open(redis_url)?;
    let mut connection = client.get_multiplexed_async_connection().await.context("Redis does not answer")?;
    let mut left = count;
    while left > 0 {
        let mut pipeline = redis::pipe();
        for _ in 0..left.min(1_000) {
            pipeline.cmd("XADD").arg(stream).arg("*").arg("b").arg(body).ignore();
        }
        left -= left.min(1_000);
        let () = pipeline.query_async(&mut connection).await?;
    }
    let mut group = redis::cmd("XGROUP");
    group.arg("CREATE").arg(stream).arg("g").arg("0");
    let () = group.query_async(&mut connection).await?;
    Ok(())
}
