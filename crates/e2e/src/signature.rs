//! Standard Webhooks signatures, verified by code that shares nothing with the code that signs.

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use postroad_testkit::receiver::Recorded;
use sha2::Sha256;

/// Verifies a request against the secret (`whsec_…`) that its subscription was created with. The request's
/// body must have been kept.
pub fn verify(secret: &str, request: &Recorded) -> Result<()> {
    let header = |name| request.header(name).with_context(|| format!("{request} has no {name}"));
    let (id, timestamp) = (header("webhook-id")?, header("webhook-timestamp")?);
    let sent: i64 = timestamp.parse().context("webhook-timestamp")?;
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_secs().cast_signed();
    ensure!((now - sent).abs() < 300, "webhook-timestamp {sent} is not about now ({now})");
    let key = STANDARD.decode(secret.strip_prefix("whsec_").context("the secret's prefix")?)?;
    for signature in header("webhook-signature")?.split(' ') {
        let Some(signature) = signature.strip_prefix("v1,") else { continue };
        let mut mac = Hmac::<Sha256>::new_from_slice(&key)?;
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(&request.body);
        if mac.verify_slice(&STANDARD.decode(signature)?).is_ok() {
            return Ok(());
        }
    }
    bail!("no signature of {request} fits")
}
