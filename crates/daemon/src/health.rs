//! What an operator asks a daemon: is it alive, can it work, what does it count.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::json;

use crate::stop::Stop;

/// What OpenMetrics text calls itself.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A question whose answer is asked for each time.
type Probe = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Whether a daemon can work: several things by name, each of which is well or has a reason why not.
/// Clones are the same readiness.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Inner>);

#[derive(Default)]
struct Inner {
    stop: Stop,
    states: Mutex<BTreeMap<&'static str, Result<(), String>>>,
    probes: Mutex<BTreeMap<&'static str, Probe>>,
}

impl Readiness {
    /// Ready until something says otherwise, and never while stopping.
    pub fn new(stop: Stop) -> Self {
        Self(Arc::new(Inner { stop, ..Inner::default() }))
    }

    /// Says how a thing is: well, or why not. Reasons are shown to whoever asks, so they hold no secrets.
    pub fn set(&self, name: &'static str, state: Result<(), String>) {
        self.0.states.lock().unwrap_or_else(PoisonError::into_inner).insert(name, state);
    }

    /// Has a thing asked how it is whenever readiness is; the answer must come at once.
    pub fn ask(&self, name: &'static str, probe: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.0.probes.lock().unwrap_or_else(PoisonError::into_inner).insert(name, Box::new(probe));
    }

    /// Everything that is not well, with the reason; empty when ready.
    pub fn complaints(&self) -> BTreeMap<&'static str, String> {
        let states = self.0.states.lock().unwrap_or_else(PoisonError::into_inner);
        let mut complaints: BTreeMap<_, _> =
            states.iter().filter_map(|(name, state)| Some((*name, state.clone().err()?))).collect();
        drop(states);
        let probes = self.0.probes.lock().unwrap_or_else(PoisonError::into_inner);
        complaints.extend(probes.iter().filter_map(|(name, probe)| Some((*name, probe().err()?))));
        if self.0.stop.is_requested() {
            complaints.insert("stop", "stopping".to_owned());
        }
        complaints
    }

    /// Whether everything is well.
    pub fn is_ready(&self) -> bool {
        self.complaints().is_empty()
    }
}

/// `GET /livez`, always 200 while the process can answer at all; `GET /readyz`, 200 or 503 with what is not
/// ready; `GET /metrics`, OpenMetrics text.
pub fn router(readiness: Readiness, registry: Arc<Registry>) -> Router {
    Router::new()
        .route("/livez", get(|| async { axum::Json(json!({ "status": "alive" })) }))
        .route("/readyz", get(move || async move { readyz(&readiness) }))
        .route("/metrics", get(move || async move { metrics(&registry) }))
}

fn readyz(readiness: &Readiness) -> impl IntoResponse + use<> {
    let complaints = readiness.complaints();
    if complaints.is_empty() {
        (StatusCode::OK, axum::Json(json!({ "status": "ready" })))
    } else {
        let body = json!({ "status": "not_ready", "not_ready": complaints });
        (StatusCode::SERVICE_UNAVAILABLE, axum::Json(body))
    }
}

fn metrics(registry: &Registry) -> impl IntoResponse + use<> {
    let mut text = String::with_capacity(16 * 1_024);
    encode(&mut text, registry).expect("a String can be written to");
    ([(header::CONTENT_TYPE, OPENMETRICS)], text)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::{body::Body, http::Request};
    use tower::ServiceExt;

    use super::*;

    async fn ask(app: &Router, path: &str) -> (StatusCode, String, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, kind, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_names_what_is_not_ready() {
        let stop = Stop::new();
        let readiness = Readiness::new(stop.clone());
        let app = router(readiness.clone(), Arc::default());
        assert_eq!(ask(&app, "/readyz").await.0, StatusCode::OK);

        let is_caught_up = Arc::new(AtomicBool::new(false));
        let asked = is_caught_up.clone();
        readiness.ask(
            "routing",
            move || if asked.load(Ordering::Relaxed) { Ok(()) } else { Err("behind".into()) },
        );
        readiness.set("redis", Err("connection refused".into()));
        readiness.set("keys", Ok(()));
        let (status, _, body) = ask(&app, "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&body).unwrap(),
            json!({ "status": "not_ready", "not_ready": { "redis": "connection refused", "routing": "behind" } })
        );

        readiness.set("redis", Ok(()));
        is_caught_up.store(true, Ordering::Relaxed);
        assert_eq!(ask(&app, "/readyz").await.0, StatusCode::OK);

        stop.request();
        let (status, _, body) = ask(&app, "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains("stopping"), "{body}");
        assert_eq!(ask(&app, "/livez").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn metrics_are_openmetrics_text() {
        let app = router(Readiness::default(), Arc::new(crate::metrics::registry("1.2.3")));
        let (status, kind, body) = ask(&app, "/metrics").await;
        assert_eq!((status, kind.as_str()), (StatusCode::OK, OPENMETRICS));
        assert!(body.contains("build_info{version=\"1.2.3\"} 1"), "{body}");
        assert!(body.ends_with("# EOF\n"), "{body}");
    }
}
