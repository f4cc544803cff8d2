//! `/v1/dlq/replay` and `/v1/dlq/replays`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use postroad_api::{body, error::ApiResult, page};
use serde_json::{Map, Value, json};

use super::{
    asked::{Given, filters, id, query, take},
    letters::{MAX_BODY, place},
};
use crate::{
    App, dead,
    filter::Filter,
    job::{
        Spec,
        desk::{self, Progress},
    },
};

/// `POST /v1/dlq/replay`
pub async fn replay(State(app): State<Arc<App>>, request: Request) -> ApiResult<Response> {
    let mut body: Map<String, Value> = body::json(request, MAX_BODY).await?;
    let dry_run = take::<bool>(&mut body, "dry_run")?.unwrap_or_default();
    let (rate, limit) = (take::<f64>(&mut body, "rate")?, take::<u64>(&mut body, "limit")?);
    let wanted = filters(body)?;
    let filter = Filter::new(&wanted)?;
    let spec = Spec::new(wanted, rate, limit)?;
    let _place = place(&app)?;
    let tenant = app.caller().tenant;
    if dry_run {
        return Ok(Json(dead::count(&app.store, &tenant, &filter, limit).await?).into_response());
    }
    let most_open = app.config.max_open_jobs;
    let made = desk::make(&app.store, &tenant, spec, app.clock.now_ms(), most_open, None).await?;
    app.nudge.notify_one();
    let location = format!("/v1/dlq/replays/{}", made.job_id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(made)).into_response())
}

/// `GET /v1/dlq/replays`
pub async fn list(State(app): State<Arc<App>>, given: Given) -> ApiResult<Json<Value>> {
    let asked = query(given, false, true)?;
    let limit = page::limit(asked.limit)?;
    let after = page::position(asked.cursor.as_deref())?;
    let (jobs, next) = desk::list(&app.store, &app.caller().tenant, limit, after.as_deref()).await?;
    Ok(Json(json!({ "replays": jobs, "next_cursor": next.map(|id| page::cursor(&id)) })))
}

/// `GET /v1/dlq/replays/{id}`
pub async fn show(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
    given: Given,
) -> ApiResult<Json<Progress>> {
    query(given, false, false)?;
    Ok(Json(desk::progress(&app.store, &app.caller().tenant, &id(path, "replay job")?).await?))
}

/// `DELETE /v1/dlq/replays/{id}`
pub async fn stop(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
) -> ApiResult<Json<Progress>> {
    Ok(Json(desk::stop(&app.store, &app.caller().tenant, &id(path, "replay job")?).await?))
}
