//! `postroad listen`: a webhook receiver that shows what arrives.
//!
//! [`receiver`] takes requests and verifies them, [`arrival`] is one of them, [`output`] shows and keeps them.

pub mod arrival;
pub mod output;
pub mod receiver;

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use axum::http::StatusCode;
use clap::Args;
use postroad_daemon::{
    serve::{HttpConfig, Serving, serve},
    stop::Stop,
};
use postroad_model::signature::SecretKey;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::{
    api::{Api, ApiArgs, Subscribed},
    bind::{Place, reachable},
    dev::address,
    selection::Selection,
};
use output::{Output, Show};
use receiver::{Manners, Receiver};

const EXAMPLES: &str = "\
Examples:
  postroad listen --channel orders
      subscribes to a channel, shows what arrives, and cancels the subscription at the end
  postroad listen --channel-pattern 'github.*' --filter '{\"action\":[\"opened\"]}' --json
  postroad listen --secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw
      only receives; for a subscription whose callback is http://127.0.0.1:9000/
  postroad listen --channel orders --fail-rate 0.3 --status 503 --retry-delay 1
      a receiver that fails: watch the attempts count up";

/// Receive webhooks, verify their signatures and show them.
///
/// Prints a line for each: the time (UTC), message id, channel, routing key, attempt, whether the signature is
/// genuine, and the size. What is not signed with one of the secrets is answered 401. With --channel or
/// --channel-pattern it subscribes by itself, verifies with the new subscription's secret, and cancels it at
/// the end (Ctrl-C).
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct ListenArgs {
    /// Where to listen; any path will do.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9000", value_parser = address)]
    pub listen: SocketAddr,

    /// A secret (whsec_…) that requests may be signed with. May be repeated.
    #[arg(long = "secret", value_name = "SECRET", value_parser = secret)]
    pub secrets: Vec<SecretKey>,

    #[command(flatten)]
    selection: Selection,

    /// The service that the subscription belongs to.
    #[arg(long, value_name = "NAME", default_value = "postroad-listen", help_heading = "Subscription")]
    pub service: String,

    /// The callback URL to subscribe with, where this receiver is reached by another than its own address.
    #[arg(long, value_name = "URL", help_heading = "Subscription")]
    pub callback_url: Option<String>,

    /// Leave the subscription behind at the end.
    #[arg(long, help_heading = "Subscription")]
    pub keep: bool,

    #[command(flatten)]
    api: ApiArgs,

    /// Answer with this status [default: 200, or 500 with --fail-rate].
    #[arg(long, value_name = "CODE", value_parser = status, help_heading = "Manners")]
    pub status: Option<StatusCode>,

    /// The share of requests to answer with --status, from 0 to 1; the others get 200.
    #[arg(long, value_name = "SHARE", value_parser = share, help_heading = "Manners")]
    pub fail_rate: Option<f64>,

    /// Keep each answer back for so long.
    #[arg(long, value_name = "MS", default_value_t = 0, help_heading = "Manners")]
    pub delay_ms: u64,

    /// Print JSON, one object a line, with the body.
    #[arg(long, conflicts_with = "quiet", help_heading = "Output")]
    pub json: bool,

    /// Append what --json would print to this file.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub out: Option<PathBuf>,

    /// Print nothing about what arrives.
    #[arg(long, help_heading = "Output")]
    pub quiet: bool,
}

impl ListenArgs {
    fn manners(&self) -> Manners {
        let delay = Duration::from_millis(self.delay_ms);
        match (self.status, self.fail_rate) {
            (None, None) => Manners { delay, ..Manners::GOOD },
            (Some(status), rate) => Manners { fail_rate: rate.unwrap_or(1.0), status, delay },
            (None, Some(fail_rate)) => {
                Manners { fail_rate, status: StatusCode::INTERNAL_SERVER_ERROR, delay }
            }
        }
    }

    fn show(&self) -> Show {
        match (self.json, self.quiet) {
            (true, _) => Show::Json,
            (_, true) => Show::Nothing,
            _ => Show::Lines,
        }
    }
}

/// Runs `postroad listen`.
pub async fn run(args: ListenArgs) -> anyhow::Result<()> {
    if let Some(flag) = args.selection.needs_a_channel() {
        bail!("{flag} says which messages to subscribe to, but there is no --channel or --channel-pattern");
    }
    let stop = Stop::on_signals().context("signals cannot be handled")?;
    let place = Place { what: "the receiver", flag: "--listen", address: args.listen, or_any: false };
    let listener = place.open().await?;
    let own_url = format!("http://{}/", reachable(listener.local_addr()?));

    // Without a place to show arrivals there is no point in going on.
    let failure = Arc::new(Mutex::new(None));
    let output = Mutex::new(Output::new(args.show(), args.out.as_deref())?);
    let receiver = Receiver::new(args.manners(), {
        let (failure, stop) = (failure.clone(), stop.clone());
        move |arrival| {
            let written = output.lock().unwrap_or_else(PoisonError::into_inner).write(&arrival);
            written.map_err(|error| {
                let kind = error.kind();
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                stop.request();
                io::Error::from(kind)
            })
        }
    });
    for key in &args.secrets {
        receiver.trust(None, key.clone());
    }
    // Who connects before we serve is kept waiting, so nothing arrives that cannot be verified.
    let own =
        if args.selection.is_some() { Some(subscribe(&args, &own_url, &receiver).await?) } else { None };
    let http = Http::start(listener, receiver);
    let subscribed = own.as_ref().map(|own| format!(", subscribed as {}", own.subscription_id));
    eprintln!("listening at {own_url}{}; Ctrl-C ends it", subscribed.unwrap_or_default());
    stop.requested().await;
    let cancelled = match own {
        Some(own) => cancel(&args, &own).await,
        None => Ok(()),
    };
    http.stop().await;
    let failed = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
    cancelled.and(failed.map_or(Ok(()), |error| Err(error).context("what arrived cannot be written")))
}

/// Subscribes, and trusts what that subscription signs.
async fn subscribe(args: &ListenArgs, own_url: &str, receiver: &Receiver) -> anyhow::Result<Subscribed> {
    let callback = args.callback_url.as_deref().unwrap_or(own_url);
    let request = args.selection.request(&args.service, callback);
    let answer = Api::new(&args.api.api)?.subscribe(&Value::Object(request)).await?;
    let own: Subscribed = serde_json::from_value(answer).context("the API answered no subscription")?;
    receiver.trust(None, SecretKey::parse(&own.secret).context("the API answered a secret that is none")?);
    Ok(own)
}

/// Cancels the subscription, or says how to go on with it.
async fn cancel(args: &ListenArgs, own: &Subscribed) -> anyhow::Result<()> {
    let Subscribed { subscription_id, secret } = own;
    if args.keep {
        eprintln!("left behind: subscription {subscription_id}; to receive for it again: --secret {secret}");
        return Ok(());
    }
    let cancelled = Api::new(&args.api.api)?.unsubscribe(subscription_id).await;
    cancelled
        .with_context(|| format!("subscription {subscription_id} could not be cancelled and is left behind"))
}

/// A receiver being served.
pub struct Http {
    stop: Stop,
    serving: tokio::task::JoinHandle<()>,
}

impl Http {
    /// What answers under way may take at the end.
    const GRACE: Duration = Duration::from_secs(2);

    /// Serves a receiver.
    pub fn start(listener: TcpListener, receiver: Arc<Receiver>) -> Self {
        let stop = Stop::new();
        let asked = stop.clone();
        let serving = tokio::spawn(async move {
            let serving = Serving::new(&HttpConfig::default(), Self::GRACE);
            serve(listener, receiver.router(), serving, &asked).await;
        });
        Self { stop, serving }
    }

    /// Answers what is under way, and ends.
    pub async fn stop(self) {
        self.stop.request();
        // A panic in there has been told by then.
        let _ = self.serving.await;
    }
}

fn secret(text: &str) -> Result<SecretKey, String> {
    SecretKey::parse(text).map_err(|error| error.to_string())
}

fn status(text: &str) -> Result<StatusCode, String> {
    let known = text.parse().ok().filter(|code| (200..=599).contains(code));
    known
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or_else(|| "a status is a number from 200 to 599".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a share is a number from 0 to 1, such as 0.3".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: ListenArgs,
    }

    fn args(line: &[&str]) -> ListenArgs {
        Line::parse_from([&["listen"], line].concat()).args
    }

    #[test]
    fn manners_are_good_unless_told() {
        assert_eq!(args(&[]).manners(), Manners::GOOD);
        let bad = args(&["--status", "410"]).manners();
        assert_eq!((bad.fail_rate, bad.status.as_u16()), (1.0, 410));
        let sometimes = args(&["--fail-rate", "0.5", "--delay-ms", "20"]).manners();
        assert_eq!((sometimes.fail_rate, sometimes.status.as_u16()), (0.5, 500));
        assert_eq!(sometimes.delay, Duration::from_millis(20));
        assert_eq!(args(&["--quiet"]).show(), Show::Nothing);
    }

    #[test]
    fn bad_values_are_refused_with_the_rule() {
        for (line, rule) in [
            (["--status", "99"], "200 to 599"),
            (["--fail-rate", "1.5"], "0 to 1"),
            (["--secret", "topsecret"], "begins with `whsec_`"),
            (["--listen", "9000"], "127.0.0.1:8080"),
        ] {
            let error = Line::try_parse_from(["listen", line[0], line[1]]).unwrap_err().to_string();
            assert!(error.contains(rule), "{error}");
        }
    }
}
