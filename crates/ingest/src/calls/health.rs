//! `GET /health`.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use postroad_model::{
    id::{Kind, mint},
    time::{Time, millis},
};
use postroad_store::{Member, Server, StoreError};
use serde_json::{Value, json};

use crate::App;

/// `HealthResponse`, with every live instance, what waits to be routed, and which durability is in force.
pub async fn health(State(app): State<Arc<App>>) -> Response {
    let now_ms = app.clock.now_ms();
    let mut body = json!({
        "status": "healthy",
        "timestamp": Time::from_millis(now_ms),
        "redis_connected": true,
        "active_subscriptions": 0,
        "active_channels": 0,
        "uptime_seconds": app.started.elapsed().as_secs_f64(),
        "version": env!("CARGO_PKG_VERSION"),
        "environment": app.config.environment,
        "service_name": "postroad",
        "error": null,
        "correlation_id": mint(Kind::Request, now_ms, rand::random()),
    });
    match look(&app, now_ms).await {
        Ok(seen) => {
            for (name, value) in seen {
                body[name] = value;
            }
            (StatusCode::OK, Json(body)).into_response()
        }
        Err(error) => {
            body["status"] = json!("unhealthy");
            body["redis_connected"] = json!(false);
            body["error"] = json!(error.to_string());
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

async fn look(app: &App, now_ms: u64) -> Result<Vec<(&'static str, Value)>, StoreError> {
    let caller = app.caller();
    let server = app.store.server().await?;
    let living = app.store.living().await?;
    let retention_ms = millis(app.config.retention);
    let channels = app.store.active_channels(&caller.tenant, now_ms.saturating_sub(retention_ms)).await?;
    let unrouted = app.store.unrouted(living.now_ms).await?;
    let waiting: u64 = unrouted.iter().map(|(count, _)| count).sum();
    let oldest_ms = unrouted.iter().map(|(_, age)| *age).max().unwrap_or(0);
    let missing: Vec<&str> =
        ["router", "worker"].into_iter().filter(|kind| living.of_kind(kind).is_empty()).collect();
    let mut seen = vec![
        ("active_subscriptions", json!(app.store.count_subscriptions(&caller.tenant).await?)),
        ("active_channels", json!(channels.len())),
        ("instances", living.members.iter().map(instance).collect()),
        ("unrouted", json!({ "count": waiting, "oldest_ms": oldest_ms })),
        ("durability", durability(&server, app.store.fsync_policy().await)),
        ("redis", json!({ "used_memory": server.used_memory, "max_memory": server.max_memory })),
    ];
    if !missing.is_empty() {
        seen.push(("status", json!("degraded")));
        seen.push(("error", json!(format!("no {} is running", missing.join(" and no ")))));
    }
    Ok(seen)
}

fn instance(member: &Member) -> Value {
    let mut about: Value = serde_json::from_str(&member.about).unwrap_or_else(|_| json!({}));
    about["name"] = json!(member.name);
    about["heard_ms_ago"] = json!(member.age_ms);
    about
}

/// What a 2xx to a publish survives, as the server is set up now.
fn durability(server: &Server, fsync: Option<String>) -> Value {
    let level = match (server.append_only, fsync.as_deref()) {
        (true, Some("always")) => "fsync",
        _ => "memory",
    };
    json!({
        "level": level,
        "append_only_file": server.append_only,
        "fsync": if server.append_only { fsync } else { None },
        "replicas": server.replicas,
    })
}
