//! The HTTP API of a running node. The node's other commands use it too, over a socket in its
//! folder.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri};
use tidegate::Node;
use utoipa::OpenApi as _;
use utoipa::openapi::{OpenApi, RefOr};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::application::Application;

pub(crate) mod events;
pub(crate) mod guard;
mod handlers;
mod metrics;
pub(crate) mod model;
pub(crate) mod problem;
mod reading;
pub(crate) mod serve;

use events::EventLog;
use problem::Problem;

/// Bytes of a request's body: the largest item in hex, and room.
const MAX_BODY: usize = 128 << 10;

/// The state of the handlers.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) node: Node,
    pub(crate) app: Application,
    pub(crate) events: Arc<EventLog>,
    /// Whether the node has no address to dial, so that it depends on inbound connections.
    pub(crate) alone: bool,
    pub(crate) started: Instant,
}

#[derive(utoipa::OpenApi)]
#[openapi(info(
    title = "Tidegate node",
    description = "A node of a Tidegate network and its ledger: what it holds, whom it is connected \
        to, what happens, and a way to submit transfers.",
    license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
))]
struct Document;

fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(handlers::status))
        .routes(routes!(handlers::peers))
        .routes(routes!(handlers::pools))
        .routes(routes!(handlers::items))
        .routes(routes!(handlers::item))
        .routes(routes!(handlers::tip))
        .routes(routes!(handlers::block))
        .routes(routes!(handlers::account))
        .routes(routes!(handlers::submit))
        .routes(routes!(handlers::events))
        .routes(routes!(metrics::metrics))
        .routes(routes!(handlers::health))
        .routes(routes!(handlers::ready))
        .routes(routes!(handlers::document))
}

/// The document that describes the API.
pub(crate) fn openapi() -> OpenApi {
    let mut document = routes().into_openapi();
    for path in document.paths.paths.values_mut() {
        let operations = [&mut path.get, &mut path.post].into_iter().flatten();
        let responses = operations.flat_map(|operation| operation.responses.responses.iter_mut());
        for (status, response) in responses {
            // OpenAPI requires one of each; utoipa leaves out what is empty.
            if let RefOr::T(response) = response
                && response.description.is_empty()
            {
                response.description = description(status).to_owned();
            }
        }
    }
    document
}

/// The description of a response that has none of its own.
fn description(status: &str) -> &'static str {
    match status {
        "default" => "A problem, as in RFC 9457",
        _ => "The answer",
    }
}

/// The API of a node.
pub(crate) fn router(api: Api) -> Router {
    let nothing = |uri: Uri| async move {
        Problem::not_found(format!("{}: nothing is here; see /openapi.json", uri.path()))
    };
    let other = |method: Method, uri: Uri| async move {
        let detail = format!("{} does not take {method}; see /openapi.json", uri.path());
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
    };
    let (router, _) = routes().split_for_parts();
    router
        .method_not_allowed_fallback(other)
        .fallback(nothing)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}
