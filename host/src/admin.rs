//! The admin API: the requests of the `projector` command line, over HTTP, processed by a running host.
//!
//! A token identifies the requester, and requests are recorded under the token's name. The API also has a request
//! that the command line lacks: what this host retries at the moment. While the database is down, only the host
//! itself knows this.

mod connections;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use projector_config::{Config, May};
use projector_core::event::Partition;
use projector_store::Requester;
use projector_store::dead_letters::DeadLetterFilter;
use projector_store::operations::DeadLetterAction;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use crate::operations::{OperationError, control, dead_letters, status};
use crate::retry::Retries;
use connections::{Bounded, Bounds, Carrier, busy};

/// The size limit of a request's body.
const BODY_BYTES: usize = 64 * 1024;
/// A request's body must arrive within this time.
const BODY_TIME: Duration = Duration::from_secs(10);
/// How many requests are processed at the same time. Each opens database connections of its own.
const AT_ONCE: usize = 4;
/// How many dead letters one answer has at most.
const MOST_LETTERS: u32 = 1_000;
/// How long a request waits until a lane starts to process it.
const PATIENCE: Duration = Duration::from_secs(60);

struct Admin {
    config: Config,
    retries: Retries,
    /// Permits of requests that are processed.
    turns: Semaphore,
    /// Permits of requests that wait for a lane. Separate from `turns`, so that waiting requests do not block the
    /// others.
    waiting: Semaphore,
}

type Shared = State<Arc<Admin>>;

/// Listens, and answers requests until the host stops. Returns the bound address.
pub async fn open(
    config: &Config,
    listen: SocketAddr,
    retries: Retries,
    stop: CancellationToken,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let admin = Arc::new(Admin {
        config: config.clone(),
        retries,
        turns: Semaphore::new(AT_ONCE),
        waiting: Semaphore::new(AT_ONCE),
    });
    tokio::spawn(async move {
        let service = router(admin).into_make_service_with_connect_info::<Carrier>();
        let listener = Bounded::new(listener, Bounds::default());
        let served = axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = served.await {
            tracing::error!(%error, "the admin API ended");
        }
    });
    Ok(address)
}

fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/v1/host", get(host))
        .route("/v1/retrying", get(retrying))
        .route("/v1/projections", get(projections))
        .route("/v1/projections/{name}", get(projection))
        .route("/v1/projections/{name}/pause", post(pause))
        .route("/v1/projections/{name}/resume", post(resume))
        .route("/v1/projections/{name}/skip", post(skip))
        .route("/v1/projections/{name}/dead-letters", get(letters))
        .route("/v1/projections/{name}/dead-letters/{id}", get(letter))
        .route("/v1/projections/{name}/dead-letters/{id}/retry", post(retry))
        .route("/v1/projections/{name}/dead-letters/{id}/discard", post(discard))
        .route("/v1/operations", get(operations))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(axum::middleware::from_fn(busy))
        .with_state(admin)
}

/// A requester who may read.
struct Reader;

/// A requester who may operate, by the name of the token.
struct Operator(String);

/// Why a request is refused.
struct Refused {
    status: StatusCode,
    error: String,
    help: Option<String>,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.error, "help": self.help }))).into_response()
    }
}

impl From<OperationError> for Refused {
    fn from(error: OperationError) -> Self {
        let (status, help) = match &error {
            OperationError::Failed(_) => (StatusCode::CONFLICT, None),
            OperationError::Usage { help, .. } => (StatusCode::NOT_FOUND, Some(help.clone())),
            OperationError::Infrastructure { .. } => (StatusCode::SERVICE_UNAVAILABLE, None),
        };
        Self { status, error: error.to_string(), help }
    }
}

impl Admin {
    /// The name of the request's token, and what this token permits. An error if the token is unknown.
    fn authenticate(&self, parts: &Parts) -> Result<(&str, May), Refused> {
        let given = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        // Compares digests, not tokens, so that the duration of the comparison reveals nothing about a token.
        let digest = Sha256::digest(given);
        let tokens = self.config.admin.iter().flat_map(|admin| &admin.tokens);
        let mut known = tokens.filter(|(_, one)| Sha256::digest(&*one.token) == digest && !given.is_empty());
        known.next().map(|(name, one)| (name.as_str(), one.may)).ok_or_else(|| Refused {
            status: StatusCode::UNAUTHORIZED,
            error: "the request has no valid token".into(),
            help: Some(
                "send the header `Authorization: Bearer TOKEN` with a token of `[admin.tokens]`".into(),
            ),
        })
    }

    /// Waits until the request may be processed.
    async fn turn(&self) -> SemaphorePermit<'_> {
        self.turns.acquire().await.expect("the semaphore is never closed")
    }
}

impl FromRequestParts<Arc<Admin>> for Reader {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, admin: &Arc<Admin>) -> Result<Self, Refused> {
        admin.authenticate(parts).map(|_| Self)
    }
}

impl FromRequestParts<Arc<Admin>> for Operator {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, admin: &Arc<Admin>) -> Result<Self, Refused> {
        match admin.authenticate(parts)? {
            (name, May::Operate) => Ok(Self(name.to_owned())),
            (name, May::Read) => Err(Refused {
                status: StatusCode::FORBIDDEN,
                error: format!("the token {name} may only read"),
                help: Some(format!(
                    "set `may = \"operate\"` in `[admin.tokens.{name}]` to permit this request"
                )),
            }),
        }
    }
}

/// A request's body, which must arrive within [`BODY_TIME`].
struct Body(Bytes);

impl FromRequest<Arc<Admin>> for Body {
    type Rejection = Response;

    async fn from_request(request: Request, admin: &Arc<Admin>) -> Result<Self, Response> {
        match tokio::time::timeout(BODY_TIME, Bytes::from_request(request, admin)).await {
            Ok(read) => read.map(Self).map_err(IntoResponse::into_response),
            Err(_) => Err(Refused {
                status: StatusCode::REQUEST_TIMEOUT,
                error: format!("the body did not arrive within {BODY_TIME:?}"),
                help: None,
            }
            .into_response()),
        }
    }
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refused> {
    let body = if body.is_empty() { b"{}" } else { &body[..] };
    serde_json::from_slice(body).map_err(|error| Refused {
        status: StatusCode::BAD_REQUEST,
        error: format!("the body is not valid for this request: {error}"),
        help: None,
    })
}

type Answer<T> = Result<Json<T>, Refused>;

async fn retrying(State(admin): Shared, _: Reader) -> Json<impl Serialize> {
    Json(admin.retries.all())
}

/// The number of tasks of this host. A number that never stops growing shows a leak.
async fn host(_: Reader) -> Json<impl Serialize> {
    Json(json!({ "tasks": tokio::runtime::Handle::current().metrics().num_alive_tasks() }))
}

async fn projections(State(admin): Shared, _: Reader) -> Answer<impl Serialize> {
    let _turn = admin.turn().await;
    Ok(Json(status::status(&admin.config, None).await?))
}

async fn projection(State(admin): Shared, _: Reader, Path(name): Path<String>) -> Answer<impl Serialize> {
    let _turn = admin.turn().await;
    Ok(Json(status::status(&admin.config, Some(&name)).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OptionalReason {
    reason: Option<String>,
}

async fn pause(
    State(admin): Shared,
    Operator(by): Operator,
    Path(name): Path<String>,
    Body(body): Body,
) -> Answer<impl Serialize> {
    let Reason { reason } = parse(&body)?;
    let _turn = admin.turn().await;
    control::pause(&admin.config, &name, &Requester::new(by, Some(reason))).await?;
    Ok(Json(json!({ "paused": name })))
}

async fn resume(
    State(admin): Shared,
    Operator(by): Operator,
    Path(name): Path<String>,
    Body(body): Body,
) -> Answer<impl Serialize> {
    let OptionalReason { reason } = parse(&body)?;
    let _turn = admin.turn().await;
    control::resume(&admin.config, &name, &Requester::new(by, reason)).await?;
    Ok(Json(json!({ "resumed": name })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Skip {
    topic: String,
    partition: i32,
    to: i64,
    reason: String,
}

async fn skip(
    State(admin): Shared,
    Operator(by): Operator,
    Path(name): Path<String>,
    Body(body): Body,
) -> Answer<impl Serialize> {
    let Skip { topic, partition, to, reason } = parse(&body)?;
    let what = control::Skip { generation: None, partition: Partition::new(topic, partition), to };
    let requester = Requester::new(by, Some(reason));
    let _turn = admin.turn().await;
    Ok(Json(control::skip(&admin.config, &name, &what, &requester).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Select {
    kind: Option<String>,
    code: Option<String>,
    key: Option<String>,
    limit: Option<u32>,
}

async fn letters(
    State(admin): Shared,
    _: Reader,
    Path(name): Path<String>,
    Query(select): Query<Select>,
) -> Answer<impl Serialize> {
    let filter = DeadLetterFilter {
        projection: Some(name),
        kind: select.kind,
        code: select.code,
        key: select.key.map(String::into_bytes),
        most: select.limit.unwrap_or(100).min(MOST_LETTERS).into(),
        ..DeadLetterFilter::default()
    };
    let _turn = admin.turn().await;
    Ok(Json(dead_letters::list(&admin.config, &filter).await?))
}

async fn letter(
    State(admin): Shared,
    _: Reader,
    Path((name, id)): Path<(String, i64)>,
) -> Answer<impl Serialize> {
    let _turn = admin.turn().await;
    Ok(Json(dead_letters::show(&admin.config, &name, id).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Retry {
    reason: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

async fn retry(
    State(admin): Shared,
    Operator(by): Operator,
    Path((name, id)): Path<(String, i64)>,
    Body(body): Body,
) -> Answer<impl Serialize> {
    let Retry { reason, dry_run } = parse(&body)?;
    admin.request(DeadLetterAction::Retry, name, id, dry_run, Requester::new(by, reason)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Discard {
    reason: String,
    #[serde(default)]
    dry_run: bool,
}

async fn discard(
    State(admin): Shared,
    Operator(by): Operator,
    Path((name, id)): Path<(String, i64)>,
    Body(body): Body,
) -> Answer<impl Serialize> {
    let Discard { reason, dry_run } = parse(&body)?;
    admin.request(DeadLetterAction::Discard, name, id, dry_run, Requester::new(by, Some(reason))).await
}

impl Admin {
    /// Requests an action for a dead letter, and waits for its result.
    async fn request(
        &self,
        action: DeadLetterAction,
        name: String,
        id: i64,
        dry_run: bool,
        asked: Requester,
    ) -> Answer<Vec<dead_letters::Done>> {
        let filter = DeadLetterFilter {
            projection: Some(name.clone()),
            ids: vec![id],
            most: 1,
            ..DeadLetterFilter::default()
        };
        let request = dead_letters::Request { action, filter, dry_run, asked, timeout: PATIENCE };
        let _turn = self.waiting.acquire().await.expect("the semaphore is never closed");
        Ok(Json(dead_letters::request(&self.config, &name, &request, &|_, _| {}).await?))
    }
}

async fn operations(State(admin): Shared, _: Reader) -> Answer<impl Serialize> {
    let _turn = admin.turn().await;
    Ok(Json(control::operations(&admin.config, None, 100).await?))
}
