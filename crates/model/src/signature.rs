//! Signatures over what subscribers receive: Standard Webhooks 1.0, symmetric (`v1`, HMAC-SHA256).
//!
//! Signed are the bytes `id.timestamp.body`, the body exactly as it is sent. While a secret rotates, every
//! live one signs, the current first, and a receiver accepts any that matches. Neither id nor timestamp
//! may hold a dot, or two different requests could have one signature; [`crate::id::MessageId`] sees to it.

pub mod rotation;

use std::fmt;

use base64::{
    Engine,
    alphabet::STANDARD as ALPHABET,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::time::Time;

/// Seconds by which a timestamp may lie before or after the verifier's clock.
pub const TOLERANCE_S: u64 = 300;

/// A secret of a subscription, with its times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Secret {
    /// The key itself.
    pub value: SecretKey,
    /// When it was made.
    pub created_at: Time,
    /// Until when it signs; none for the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
}

impl Secret {
    /// Whether it still signs.
    pub fn is_live(&self, now: Time) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }
}

/// The keys that sign at `now`, in the order in which they are kept: the current one first.
pub fn live(secrets: &[Secret], now: Time) -> impl Iterator<Item = &SecretKey> {
    secrets.iter().filter(move |secret| secret.is_live(now)).map(|secret| &secret.value)
}

/// A signing key of 24 to 64 bytes, ready to sign. Written `whsec_<base64>`; never shown by `Debug`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretKey {
    bytes: Box<[u8]>,
    /// The state after both pads of the key, so that signing starts at the message.
    keyed: Hmac<Sha256>,
}

/// Why a text is no signing key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Something else than `whsec_` begins it.
    #[error("a secret begins with `{}`", SecretKey::PREFIX)]
    Prefix,
    /// What follows the prefix is no base64.
    #[error("what follows `{}` in a secret is standard base64; this is not", SecretKey::PREFIX)]
    Base64,
    /// The key is too short to be safe, or needlessly long.
    #[error("a secret has {} to {} bytes; this one has {actual}", SecretKey::MIN_BYTES, SecretKey::MAX_BYTES)]
    Length {
        /// How many bytes it has.
        actual: usize,
    },
}

impl SecretKey {
    /// What the text of a symmetric secret begins with.
    pub const PREFIX: &str = "whsec_";
    /// The shortest key.
    pub const MIN_BYTES: usize = 24;
    /// The longest key.
    pub const MAX_BYTES: usize = 64;

    /// From random bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SecretError> {
        if !(Self::MIN_BYTES..=Self::MAX_BYTES).contains(&bytes.len()) {
            return Err(SecretError::Length { actual: bytes.len() });
        }
        let keyed = Hmac::new_from_slice(bytes).expect("HMAC takes keys of every length");
        Ok(Self { bytes: bytes.into(), keyed })
    }

    /// From `whsec_<base64>`, padded or not. The refusal does not repeat the text.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        const LENIENT: GeneralPurpose = GeneralPurpose::new(
            &ALPHABET,
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
        );
        let encoded = text.strip_prefix(Self::PREFIX).ok_or(SecretError::Prefix)?;
        let bytes = LENIENT.decode(encoded).map_err(|_| SecretError::Base64)?;
        Self::from_bytes(&bytes)
    }

    /// As people are shown it, once.
    pub fn to_text(&self) -> String {
        format!("{}{}", Self::PREFIX, STANDARD.encode(&self.bytes))
    }

    fn mac(&self, head: &str, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.keyed.clone();
        mac.update(head.as_bytes());
        mac.update(body);
        mac
    }
}

impl PartialEq for SecretKey {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for SecretKey {}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey([redacted])")
    }
}

impl TryFrom<String> for SecretKey {
    type Error = SecretError;
    fn try_from(text: String) -> Result<Self, SecretError> {
        Self::parse(&text)
    }
}

impl From<SecretKey> for String {
    fn from(key: SecretKey) -> String {
        key.to_text()
    }
}

/// The value of `webhook-signature`: one `v1,<base64>` per key, in the order given.
pub fn sign<'a>(
    keys: impl IntoIterator<Item = &'a SecretKey>,
    id: &str,
    timestamp_s: u64,
    body: &[u8],
) -> String {
    const ONE: usize = "v1,".len() + 44;
    let head = format!("{id}.{timestamp_s}.");
    let mut value = String::with_capacity(ONE);
    for key in keys {
        if !value.is_empty() {
            value.push(' ');
        }
        value.push_str("v1,");
        STANDARD.encode_string(key.mac(&head, body).finalize().into_bytes(), &mut value);
    }
    value
}

/// What a receiver was sent to verify by, as it stands in the request.
#[derive(Debug, Clone, Copy)]
pub struct SignatureHeaders<'a> {
    /// `webhook-id`.
    pub id: &'a str,
    /// `webhook-timestamp`.
    pub timestamp: &'a str,
    /// `webhook-signature`.
    pub signature: &'a str,
}

/// Why a request is not to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The timestamp is no number of seconds.
    #[error("webhook-timestamp is no whole number of seconds")]
    BadTimestamp,
    /// The timestamp lies too far in the past: perhaps a replayed request.
    #[error("webhook-timestamp is too old")]
    TooOld,
    /// The timestamp lies too far in the future.
    #[error("webhook-timestamp lies in the future")]
    TooNew,
    /// No signature of a known version matches.
    #[error("no webhook-signature matches")]
    NoMatch,
}

/// Checks a received request: any `v1` signature that matches will do, other versions are passed over.
/// Signatures are compared in constant time, and one that is cut short never matches. `tolerance_s` is
/// [`TOLERANCE_S`] unless there is a reason.
pub fn verify(
    key: &SecretKey,
    headers: SignatureHeaders<'_>,
    body: &[u8],
    now_s: u64,
    tolerance_s: u64,
) -> Result<(), VerifyError> {
    let SignatureHeaders { id, timestamp, signature } = headers;
    if timestamp.is_empty() || !timestamp.bytes().all(|b| b.is_ascii_digit()) {
        return Err(VerifyError::BadTimestamp);
    }
    let sent_s: u64 = timestamp.parse().map_err(|_| VerifyError::BadTimestamp)?;
    if sent_s < now_s.saturating_sub(tolerance_s) {
        return Err(VerifyError::TooOld);
    }
    if sent_s > now_s.saturating_add(tolerance_s) {
        return Err(VerifyError::TooNew);
    }
    let mac = key.mac(&format!("{id}.{timestamp}."), body);
    let matches = signature
        .split(' ')
        .filter_map(|entry| entry.strip_prefix("v1,"))
        .filter_map(|encoded| STANDARD.decode(encoded).ok())
        .any(|candidate| mac.clone().verify_slice(&candidate).is_ok());
    if matches { Ok(()) } else { Err(VerifyError::NoMatch) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
    const AT: u64 = 1_649_367_553;
    const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;
    const SIGNATURE: &str = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";

    fn key() -> SecretKey {
        SecretKey::parse(SECRET).unwrap()
    }

    fn check(signature: &str) -> Result<(), VerifyError> {
        let headers = SignatureHeaders { id: ID, timestamp: "1649367553", signature };
        verify(&key(), headers, BODY, AT, TOLERANCE_S)
    }

    #[test]
    fn the_specifications_vector() {
        assert_eq!(sign([&key()], ID, AT, BODY), SIGNATURE);
        assert_eq!(check(SIGNATURE), Ok(()));
    }

    #[test]
    fn the_current_key_signs_first_and_any_match_will_do() {
        let other = SecretKey::from_bytes(&[7; 32]).unwrap();
        let both = sign([&other, &key()], ID, AT, BODY);
        let (first, second) = both.split_once(' ').unwrap();
        assert_eq!(first, sign([&other], ID, AT, BODY));
        assert_eq!(second, SIGNATURE);
        assert_eq!(check(&both), Ok(()));
        assert_eq!(check(first), Err(VerifyError::NoMatch));
        assert_eq!(check(&format!("v1a,AAAA v2,{} {SIGNATURE}", &SIGNATURE[3..])), Ok(()));
        assert_eq!(sign([], ID, AT, BODY), "");
    }

    #[test]
    fn cut_empty_and_foreign_signatures_never_match() {
        let encoded = &SIGNATURE[3..];
        let mut bad = vec![
            String::new(),
            " ".into(),
            "v1".into(),
            "v1,".into(),
            "v1,====".into(),
            "v1,AAAA".into(),
            encoded.into(),
            format!("v2,{encoded}"),
            format!("V1,{encoded}"),
            format!("v1, {encoded}"),
            format!("v1,{encoded}AAAA"),
            format!("v1,{}", encoded.to_lowercase()),
            format!("v1,{}", STANDARD.encode([0; 32])),
        ];
        bad.extend((0..encoded.len()).map(|end| format!("v1,{}", &encoded[..end])));
        let whole = STANDARD.decode(encoded).unwrap();
        bad.extend((0..whole.len()).map(|end| format!("v1,{}", STANDARD.encode(&whole[..end]))));
        for signature in bad {
            assert_eq!(check(&signature), Err(VerifyError::NoMatch), "{signature:?}");
        }
    }

    #[test]
    fn what_is_signed_cannot_be_changed() {
        let with = |id, timestamp, body: &[u8]| {
            verify(&key(), SignatureHeaders { id, timestamp, signature: SIGNATURE }, body, AT, TOLERANCE_S)
        };
        assert_eq!(with("msg_other", "1649367553", BODY), Err(VerifyError::NoMatch));
        assert_eq!(with(ID, "1649367554", BODY), Err(VerifyError::NoMatch));
        assert_eq!(with(ID, "01649367553", BODY), Err(VerifyError::NoMatch));
        assert_eq!(with(ID, "1649367553", b"{}"), Err(VerifyError::NoMatch));
    }

    #[test]
    fn time_is_tolerant_both_ways_to_the_second() {
        let at = |now_s| {
            let headers = SignatureHeaders { id: ID, timestamp: "1649367553", signature: SIGNATURE };
            verify(&key(), headers, BODY, now_s, TOLERANCE_S)
        };
        assert_eq!(at(AT + 300), Ok(()));
        assert_eq!(at(AT + 301), Err(VerifyError::TooOld));
        assert_eq!(at(AT - 300), Ok(()));
        assert_eq!(at(AT - 301), Err(VerifyError::TooNew));
        assert_eq!(at(0), Err(VerifyError::TooNew));
        assert_eq!(at(u64::MAX), Err(VerifyError::TooOld));
        for timestamp in
            ["", "now", "-1", "+1649367553", " 1649367553", "1649367553.0", "99999999999999999999"]
        {
            let headers = SignatureHeaders { id: ID, timestamp, signature: SIGNATURE };
            assert_eq!(verify(&key(), headers, BODY, AT, TOLERANCE_S), Err(VerifyError::BadTimestamp));
        }
    }

    #[test]
    fn bodies_are_bytes() {
        let body = [0, 0xff, 0xfe, b'\n'];
        let signature = sign([&key()], ID, AT, &body);
        let headers = SignatureHeaders { id: ID, timestamp: "1649367553", signature: &signature };
        assert_eq!(verify(&key(), headers, &body, AT, TOLERANCE_S), Ok(()));
    }

    #[test]
    fn keys_are_refused_with_the_reason() {
        let text = |length: usize| format!("whsec_{}", STANDARD.encode(vec![1; length]));
        for length in [24, 32, 64] {
            let key = SecretKey::parse(&text(length)).unwrap();
            assert_eq!(key.to_text(), text(length));
            assert_eq!(SecretKey::parse(text(length).trim_end_matches('=')).unwrap(), key);
        }
        for length in [0, 1, 23, 65] {
            assert_eq!(SecretKey::parse(&text(length)), Err(SecretError::Length { actual: length }));
        }
        assert_eq!(SecretKey::parse(""), Err(SecretError::Prefix));
        assert_eq!(SecretKey::parse("whpk_AAAA"), Err(SecretError::Prefix));
        assert_eq!(SecretKey::parse("whsec_no base64!"), Err(SecretError::Base64));
    }

    #[test]
    fn nothing_shows_a_secret() {
        let secret = Secret { value: key(), created_at: Time::from_millis(0), expires_at: None };
        let shown = format!("{secret:?}");
        assert!(shown.contains("redacted") && !shown.contains("C2FV"), "{shown}");
        let error = serde_json::from_str::<SecretKey>("\"topsecret\"").unwrap_err().to_string();
        assert!(!error.contains("topsecret"), "{error}");
    }

    #[test]
    fn secrets_are_kept_as_text_and_expire() {
        let secret = Secret {
            value: key(),
            created_at: Time::from_millis(0),
            expires_at: Some(Time::from_millis(10)),
        };
        let json = serde_json::to_string(&secret).unwrap();
        assert_eq!(
            json,
            r#"{"value":"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD","created_at":"1970-01-01T00:00:00.000Z","expires_at":"1970-01-01T00:00:00.010Z"}"#
        );
        assert_eq!(serde_json::from_str::<Secret>(&json).unwrap(), secret);
        let current = Secret { expires_at: None, ..secret.clone() };
        let both = [current, secret];
        assert_eq!(live(&both, Time::from_millis(9)).count(), 2);
        assert_eq!(live(&both, Time::from_millis(10)).count(), 1);
    }
}
