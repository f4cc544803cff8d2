//! `/v1/dlq` and what is below it about dead letters themselves.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use postroad_api::{
    body,
    error::{ApiError, ApiResult},
    page,
};
use serde_json::{Map, Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;

use super::asked::{Given, filters, id, query, take};
use crate::{
    App,
    dead::{self, Overview, Page, Shown},
    filter::Filter,
};

/// The most bytes of a request.
pub(super) const MAX_BODY: usize = 16 << 10;

/// A place for a call that reads through dead letters; given back with the answer.
pub(super) fn place(app: &App) -> ApiResult<OwnedSemaphorePermit> {
    Arc::clone(&app.places).try_acquire_owned().map_err(|_| {
        let message = format!(
            "{} calls read through dead letters already (reprocessor.max_calls); repeat this one later",
            app.config.max_calls
        );
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message).retry_after(1)
    })
}

/// `GET /v1/dlq`
pub async fn overview(State(app): State<Arc<App>>, given: Given) -> ApiResult<Json<Overview>> {
    let asked = query(given, false, true)?;
    let limit = page::limit(asked.limit)?;
    let after = page::position(asked.cursor.as_deref())?;
    let _place = place(&app)?;
    let tenant = app.caller().tenant;
    Ok(Json(dead::overview(&app.store, &tenant, app.config.sample, limit, after.as_deref()).await?))
}

/// `GET /v1/dlq/messages`
pub async fn list(State(app): State<Arc<App>>, given: Given) -> ApiResult<Json<Page>> {
    let asked = query(given, true, true)?;
    let limit = page::limit(asked.limit)?;
    let filter = Filter::new(&asked.wanted)?;
    let _place = place(&app)?;
    let tenant = app.caller().tenant;
    Ok(Json(dead::list(&app.store, &tenant, &filter, limit, asked.cursor.as_deref()).await?))
}

/// `GET /v1/dlq/messages/{id}`
pub async fn show(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
    given: Given,
) -> ApiResult<Json<Shown>> {
    query(given, false, false)?;
    let id = id(path, "dead letter")?;
    let _place = place(&app)?;
    Ok(Json(dead::show(&app.store, &app.caller().tenant, &id).await?))
}

/// `POST /v1/dlq/purge`
pub async fn purge(State(app): State<Arc<App>>, request: Request) -> ApiResult<Json<Value>> {
    let mut body: Map<String, Value> = body::json(request, MAX_BODY).await?;
    let confirm = take::<u64>(&mut body, "confirm")?;
    let filter = Filter::new(&filters(body)?)?;
    let confirm = confirm.ok_or_else(|| {
        let message = "confirm is missing; give the number of dead letters that match, as a replay with dry_run counts them";
        ApiError::field("confirm", message)
    })?;
    let _place = place(&app)?;
    let purged = dead::purge(&app.store, &app.caller().tenant, &filter, confirm).await?;
    app.metrics.purged.inc_by(purged);
    Ok(Json(json!({ "success": true, "purged": purged })))
}

/// `GET /v1/dlq/export`
pub async fn export(State(app): State<Arc<App>>, given: Given) -> ApiResult<Response> {
    let filter = Filter::new(&query(given, true, false)?.wanted)?;
    let place = place(&app)?;
    let export = dead::export(&app.store, &app.caller().tenant, filter).await?;
    let lines = futures_util::stream::try_unfold((export, place), async |(mut export, place)| {
        match export.next().await {
            Ok(lines) => Ok(lines.map(|lines| (lines, (export, place)))),
            Err(error) => {
                // The answer has begun: all that is left is to break it off.
                let error = anyhow::Error::from(error);
                warn!(error = format!("{error:#}"), "broke off an export");
                Err(error)
            }
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}
