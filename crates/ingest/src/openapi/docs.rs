//! `GET /docs`: a page to read the description and to try what it describes.
//!
//! It is Swagger UI, which is part of this binary: nothing is loaded from anywhere else, and the page's own policy
//! forbids it.

use std::sync::{Arc, LazyLock};

use axum::{
    extract::Path,
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use postroad_api::openapi::Always;
use utoipa_swagger_ui::{Config, serve};

const PAGE: &str = include_str!("docs/index.html");
const START: &str = include_str!("docs/start.js");

/// What of Swagger UI the page asks for.
const PARTS: [&str; 3] = ["swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png"];

/// Parts change with releases only.
const CACHE: (HeaderName, &str) = (header::CACHE_CONTROL, "max-age=3600");

/// Swagger UI's own way to be told things, which none of the parts use.
static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(Arc::default);

/// Shows a page to read this description and to try what it describes.
#[utoipa::path(
    get,
    path = "/docs",
    operation_id = "show_docs",
    tag = "description",
    responses((status = 200, description = "The page.", body = String, content_type = "text/html"), Always),
)]
pub async fn page() -> Response {
    const POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                          base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers =
        [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, POLICY)];
    (headers, PAGE).into_response()
}

/// A part of the page.
pub async fn part(Path(name): Path<String>) -> Response {
    let (kind, bytes) = match name.as_str() {
        "start.js" => ("text/javascript; charset=utf-8".to_owned(), Bytes::from_static(START.as_bytes())),
        name if PARTS.contains(&name) => match serve(name, Arc::clone(&CONFIG)) {
            Ok(Some(file)) => (file.content_type, Bytes::from(file.bytes.into_owned())),
            Ok(None) | Err(_) => return StatusCode::NOT_FOUND.into_response(),
        },
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    ([CACHE], [(header::CONTENT_TYPE, kind)], bytes).into_response()
}
