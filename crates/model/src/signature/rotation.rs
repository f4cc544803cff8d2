//! A new secret for an old one, both of which sign for a while.

use std::time::Duration;

use super::{Secret, SecretKey};
use crate::time::{Time, millis};

/// The most secrets that sign at a time.
pub const MAX_LIVE: usize = 10;

/// Why a secret is not rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    /// With another one there would be too many.
    #[error(
        "{MAX_LIVE} secrets sign already, the most that may; wait until one of them has run out, or rotate without a grace"
    )]
    TooMany,
    /// The new one is there already.
    #[error("this secret signs already")]
    InUse,
}

/// Puts `new` before the secrets that sign at `now`, each of which signs on for `grace` at most: one that was to end
/// earlier still does. What has run out, or does so at once, is gone.
pub fn rotate(
    secrets: &[Secret],
    new: SecretKey,
    now: Time,
    grace: Duration,
) -> Result<Vec<Secret>, RotationError> {
    let live = || secrets.iter().filter(|secret| secret.is_live(now));
    if live().any(|secret| secret.value == new) {
        return Err(RotationError::InUse);
    }
    let end = Time::from_millis(now.as_millis().saturating_add(millis(grace)));
    let mut rotated = vec![Secret { value: new, created_at: now, expires_at: None }];
    rotated.extend(live().map(|secret| {
        let expires_at = secret.expires_at.map_or(end, |ends| ends.min(end));
        Secret { expires_at: Some(expires_at), ..secret.clone() }
    }));
    rotated.retain(|secret| secret.is_live(now));
    if rotated.len() > MAX_LIVE { Err(RotationError::TooMany) } else { Ok(rotated) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes(&[n; 32]).unwrap()
    }

    fn secret(n: u8, expires_at: Option<u64>) -> Secret {
        Secret {
            value: key(n),
            created_at: Time::from_millis(1),
            expires_at: expires_at.map(Time::from_millis),
        }
    }

    /// Which secrets there are and when they end, after a rotation at 1,000 ms.
    fn rotated(secrets: &[Secret], grace_ms: u64) -> Vec<(u8, Option<u64>)> {
        let grace = Duration::from_millis(grace_ms);
        let rotated = rotate(secrets, key(9), Time::from_millis(1_000), grace).unwrap();
        let number = |secret: &Secret| (0..=9).find(|n| key(*n) == secret.value).unwrap();
        let end = |secret: &Secret| secret.expires_at.map(Time::as_millis);
        rotated.iter().map(|secret| (number(secret), end(secret))).collect()
    }

    #[test]
    fn the_new_one_stands_first_and_old_ones_end() {
        let secrets =
            [secret(3, None), secret(2, Some(1_200)), secret(1, Some(5_000)), secret(0, Some(1_000))];
        assert_eq!(rotated(&secrets, 500), [(9, None), (3, Some(1_500)), (2, Some(1_200)), (1, Some(1_500))]);
        assert_eq!(rotated(&secrets, 0), [(9, None)]);
        assert_eq!(rotated(&[], 500), [(9, None)]);
    }

    #[test]
    fn there_are_never_too_many_nor_two_alike() {
        let now = Time::from_millis(1_000);
        let rotate = |secrets: &[Secret], new, grace| rotate(secrets, key(new), now, grace);
        let mut secrets: Vec<Secret> = (1..10).map(|n| secret(n, Some(2_000))).collect();
        let full = rotate(&secrets, 10, Duration::from_secs(9)).unwrap();
        assert_eq!(full.len(), MAX_LIVE);
        secrets.push(secret(10, None));
        assert_eq!(rotate(&secrets, 11, Duration::from_secs(9)), Err(RotationError::TooMany));
        assert_eq!(rotate(&secrets, 11, Duration::ZERO).unwrap().len(), 1);
        assert_eq!(rotate(&secrets, 3, Duration::ZERO), Err(RotationError::InUse));
        let gone = [secret(1, None), secret(2, Some(1_000))];
        assert!(rotate(&gone, 2, Duration::ZERO).is_ok(), "what has run out may come again");
    }
}
