//! Waiting for a state of the world, with an account of what was seen instead.

use std::fmt::Display;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, timeout_at};

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Probes until it answers `Ok`, and returns that.
///
/// `Err` of the probe is the state it saw instead; the last one is in the error when `timeout` is over. `what`
/// completes the sentence "gave up waiting for …". The probe runs at least once, and one that hangs is given up
/// at the same deadline. Pauses between probes grow from 2 to 50 ms.
///
/// ```
/// # use std::{cell::Cell, time::Duration};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> anyhow::Result<()> {
/// # let left = Cell::new(3); let queue_length = async || left.replace(left.get() - 1);
/// postroad_testkit::wait::eventually(Duration::from_secs(5), "the queue to drain", async || {
///     match queue_length().await {
///         0 => Ok(()),
///         length => Err(format!("{length} entries left")),
///     }
/// })
/// .await?;
/// # Ok(()) }
/// ```
pub async fn eventually<T, E: Display>(
    timeout: Duration,
    what: impl Display,
    mut probe: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T> {
    let started = Instant::now();
    let deadline = started + timeout;
    let mut seen: Option<(String, Instant)> = None;
    let mut pause = FIRST_PAUSE;
    for probes in 1.. {
        let hung = match timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(state)) => {
                seen = Some((format!("{state:#}"), Instant::now()));
                false
            }
            Err(_) => true,
        };
        let now = Instant::now();
        if now >= deadline {
            let waited = started.elapsed();
            let state = match seen {
                Some((state, at)) if hung => {
                    format!("the last probe hung; {:.1?} before: {state}", now - at)
                }
                Some((state, _)) => format!("last state seen: {state}"),
                None => "the probe never answered".to_owned(),
            };
            bail!("gave up waiting for {what} after {waited:.1?} and {probes} probes; {state}");
        }
        sleep(pause.min(deadline - now)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    unreachable!("the loop above has no end but return")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(60);

    #[tokio::test]
    async fn it_returns_what_the_probe_found() {
        let mut calls = 0;
        let found = eventually(Duration::from_secs(5), "three", async || {
            calls += 1;
            if calls == 3 { Ok(calls) } else { Err(format!("{calls}")) }
        });
        assert_eq!(found.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn the_last_state_is_in_the_error() {
        let error = eventually(SHORT, "a million", async || Err::<(), _>("only 7")).await.unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("gave up waiting for a million after "), "{text}");
        assert!(text.ends_with("last state seen: only 7"), "{text}");
    }

    #[tokio::test]
    async fn the_chain_of_an_error_is_in_the_error() {
        let probe = async || Err::<(), _>(anyhow::anyhow!("refused").context("cannot connect"));
        let text = eventually(SHORT, "x", probe).await.unwrap_err().to_string();
        assert!(text.ends_with("cannot connect: refused"), "{text}");
    }

    #[tokio::test]
    async fn a_probe_that_hangs_is_given_up() {
        let mut calls = 0;
        let error = eventually(SHORT, "x", async || {
            calls += 1;
            if calls > 1 {
                std::future::pending::<()>().await;
            }
            Err::<(), _>("early")
        });
        let text = error.await.unwrap_err().to_string();
        assert!(text.contains("the last probe hung") && text.ends_with("early"), "{text}");
        let never = async || std::future::pending::<Result<(), String>>().await;
        let text = eventually(SHORT, "x", never).await.unwrap_err().to_string();
        assert!(text.ends_with("the probe never answered"), "{text}");
    }
}
