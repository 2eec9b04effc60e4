//! One function for each thing that can be asked.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::response::sse::Sse;
use tidegate::id::{BlockId, ItemId, PoolIndex};
use tidegate::io::Fate;
use tidegate::{BlockAt, stats::Count};
use tidegate_ledger::{AccountState, Header, TRANSFERS, Transfer, pools as ledger_pools};

use super::Api;
use super::events::{EventStream, LISTENERS, keep_alive};
use super::model::{
    self, Account, Banned, Block, BlockItem, HeldItem, Item, Most, OwnAddress, Peer, Peers, Pool,
    Ready, Status, Submission, Submitted, Tip,
};
use super::problem::Problem;
use crate::application::SubmitError;
use crate::keys::public_key;

type Answer<T> = Result<Json<T>, Problem>;

/// How long to wait for the disk before an answer, and how often to check.
const DURABLE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// The timeout of a health check.
const ALIVE: Duration = Duration::from_secs(2);

/// The node at a glance
#[utoipa::path(get, path = "/v1/status", responses(
    (status = 200, body = Status),
    (status = "default", body = Problem, content_type = "application/problem+json")
))]
pub(super) async fn status(State(api): State<Api>) -> Answer<Status> {
    let status = api.node.status().await?;
    let traffic = api.node.traffic().await?;
    let stats = api.node.stats().await?;
    let pool = |(name, pool): (&String, &tidegate::PoolStatus)| Pool {
        name: name.clone(),
        items: pool.items,
        bytes: pool.bytes,
        permits_given: pool.given,
        permits_spent: pool.spent,
    };
    let (network, network_id) = {
        let ledger = api.app.ledger();
        (ledger.genesis().name.clone(), hex::encode(ledger.genesis().network().0))
    };
    Ok(Json(Status {
        peer_id: api.node.peer_id().to_string(),
        client: crate::application::CLIENT.to_owned(),
        network,
        network_id,
        addresses: api.node.addresses().iter().map(ToString::to_string).collect(),
        own_addresses: status.addresses.iter().filter_map(OwnAddress::of).collect(),
        uptime: api.started.elapsed().as_secs_f64(),
        height: status.height,
        tip: status.tip,
        syncing: api.events.syncing(),
        peers: status.peers.len(),
        known_peers: status.known_peers,
        met_peers: status.met_peers,
        banned_peers: status.bans,
        pending_verdicts: status.tickets,
        store_backlog: status.store_backlog,
        bytes_sent: traffic.sent,
        bytes_received: traffic.received,
        useful_bytes: stats.of(Count::UsefulBytes),
        pools: status.pools.iter().map(pool).collect(),
    }))
}

/// Who is connected and with how many permits, and who is refused for what
#[utoipa::path(get, path = "/v1/peers", responses(
    (status = 200, body = Peers),
    (status = "default", body = Problem, content_type = "application/problem+json")
))]
pub(super) async fn peers(State(api): State<Api>) -> Answer<Peers> {
    let connected = api.node.status().await?.peers.iter().map(Peer::from).collect();
    let banned = api.node.banned_peers().await?.into_iter().map(|banned| {
        let violation = banned.violation.map(|violation| violation.to_string());
        Banned::new(banned.peer, banned.left, violation)
    });
    Ok(Json(Peers { connected, banned: banned.collect() }))
}

/// The pools
#[utoipa::path(get, path = "/v1/pools", responses(
    (status = 200, body = Vec<Pool>),
    (status = "default", body = Problem, content_type = "application/problem+json")
))]
pub(super) async fn pools(state: State<Api>) -> Answer<Vec<Pool>> {
    Ok(Json(status(state).await?.0.pools))
}

/// The best items of a pool
#[utoipa::path(get, path = "/v1/pools/{pool}/items",
    params(("pool" = String, Path, description = "Name of the pool",
        pattern = "^(transfers|works)$"), Most),
    responses(
        (status = 200, body = Vec<Item>),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn items(
    State(api): State<Api>,
    pool: Result<Path<String>, PathRejection>,
    most: Result<Query<Most>, QueryRejection>,
) -> Answer<Vec<Item>> {
    let (Path(pool), Query(Most { limit })) = (pool?, most?);
    if !(1..=1000).contains(&limit) {
        return Err(Problem::bad_request(format!("limit={limit}: give 1 to 1000")));
    }
    let items = api.node.pool(pool_of(&pool)?, limit).await?;
    Ok(Json(items.into_iter().map(Item::from).collect()))
}

/// An item of a pool
#[utoipa::path(get, path = "/v1/pools/{pool}/items/{id}",
    params(("pool" = String, Path, description = "The pool's name"),
        ("id" = String, Path, description = "The item's id, 64 hex digits",
            pattern = "^[0-9a-fA-F]{64}$")),
    responses(
        (status = 200, body = HeldItem),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn item(
    State(api): State<Api>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Answer<HeldItem> {
    let Path((pool, text)) = path?;
    let pool = pool_of(&pool)?;
    let mut id = [0; 32];
    hex::decode_to_slice(&text, &mut id)
        .map_err(|_| Problem::bad_request(format!("{text}: an id has 64 hex digits")))?;
    let holders = api.node.holders(pool, ItemId(id)).await?;
    let item = api.node.item(pool, ItemId(id)).await?.map(Item::from);
    let (Some(item), Some(holders)) = (item, holders) else {
        return Err(Problem::not_found(format!("{text}: not in the pool, or not any more")));
    };
    let holders = holders.iter().map(ToString::to_string).collect();
    Ok(Json(HeldItem { item, holders }))
}

/// The pool with a name.
fn pool_of(name: &str) -> Result<PoolIndex, Problem> {
    let pools = ledger_pools();
    let index = pools.iter().position(|spec| spec.name == name);
    index.map(|index| PoolIndex(index as u16)).ok_or_else(|| {
        let names = pools.iter().map(|pool| pool.name.as_str()).collect::<Vec<_>>().join(", ");
        Problem::not_found(format!("{name}: no such pool; there are {names}"))
    })
}

/// The best executed block
#[utoipa::path(get, path = "/v1/tip", responses(
    (status = 200, body = Tip),
    (status = "default", body = Problem, content_type = "application/problem+json")
))]
pub(super) async fn tip(State(api): State<Api>) -> Answer<Tip> {
    let status = api.node.status().await?;
    let block = status.tip.ok_or_else(|| Problem::unavailable("the node has no tip yet"))?;
    Ok(Json(Tip { height: status.height, block }))
}

/// A block by its height or its id
#[utoipa::path(get, path = "/v1/blocks/{at}",
    params(("at" = String, Path, description = "A height, or an id of 64 hex digits",
        pattern = "^([0-9]{1,19}|[0-9a-fA-F]{64})$")),
    responses(
        (status = 200, body = Block),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn block(
    State(api): State<Api>,
    at: Result<Path<String>, PathRejection>,
) -> Answer<Block> {
    let Path(text) = at?;
    let mut id = [0; 32];
    let at = match (text.len(), hex::decode_to_slice(&text, &mut id), text.parse::<u64>()) {
        (64, Ok(()), _) => BlockAt::Id(BlockId(id)),
        (1..=19, _, Ok(height)) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            BlockAt::Height(height)
        }
        _ => {
            let detail = format!("{text:?}: give a height, or an id of 64 hex digits");
            return Err(Problem::bad_request(detail));
        }
    };
    let missing = || Problem::not_found(format!("{text}: this node has no such block"));
    let block = api.node.block(at).await?.ok_or_else(missing)?;
    let header = Header::from_bytes(&block.header).ok_or_else(missing)?;
    until_durable(&api, header.height).await?;
    let names = ledger_pools();
    let item = |item: tidegate::io::BlockItem| BlockItem {
        pool: names.get(item.pool.0 as usize).map(|pool| pool.name.clone()).unwrap_or_default(),
        id: item.id.to_string(),
        body: hex::encode(&item.body),
    };
    Ok(Json(Block {
        block: block.block.to_string(),
        parent: header.parent.to_string(),
        height: header.height,
        slot: header.slot,
        producer: hex::encode(header.producer),
        items: block.items.into_iter().map(item).collect(),
    }))
}

/// Waits until a height is durable: what was reported must survive a restart.
async fn until_durable(api: &Api, height: u64) -> Result<(), Problem> {
    let wait = async {
        while api.node.status().await?.height < height {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    };
    match tokio::time::timeout(DURABLE, wait).await {
        Ok(durable) => durable,
        Err(_) => Err(Problem::unavailable("the disk is behind: ask again")),
    }
}

/// An account at the tip
///
/// One that nobody has sent anything to has 0.
#[utoipa::path(get, path = "/v1/accounts/{key}",
    params(("key" = String, Path, description = "Public key, 64 hex digits",
        pattern = "^[0-9a-fA-F]{64}$")),
    responses(
        (status = 200, body = Account),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn account(
    State(api): State<Api>,
    key: Result<Path<String>, PathRejection>,
) -> Answer<Account> {
    let key = public_key(&key?.0).map_err(|error| Problem::bad_request(error.to_string()))?;
    let waiting = api.node.pool(TRANSFERS, usize::MAX).await?;
    let (AccountState { balance, nonce, .. }, height) = {
        let ledger = api.app.ledger();
        (ledger.account(&key), ledger.tip().1.height)
    };
    until_durable(&api, height).await?;
    let transfers = waiting.iter().filter_map(|item| Transfer::from_bytes(&item.body));
    let taken: BTreeSet<_> =
        transfers.filter(|transfer| transfer.from == key).map(|transfer| transfer.nonce).collect();
    let next_nonce = (nonce..).find(|next| !taken.contains(next)).unwrap_or(u64::MAX);
    Ok(Json(Account { account: hex::encode(key.0), balance, nonce, next_nonce }))
}

/// Publish a signed transfer
///
/// The answer comes when it is durable here and on its way.
#[utoipa::path(post, path = "/v1/transfers", request_body = Submission, responses(
    (status = 200, body = Submitted),
    (status = 400, description = "Not the bytes of a transfer",
        body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "Its sender has not signed it",
        body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It does not hold at the present tip",
        body = Problem, content_type = "application/problem+json"),
    (status = 413, body = Problem, content_type = "application/problem+json"),
    (status = 415, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The pool is full of better ones, or the node is busy",
        body = Problem, content_type = "application/problem+json"),
    (status = "default", body = Problem, content_type = "application/problem+json")
))]
pub(super) async fn submit(
    State(api): State<Api>,
    submission: Result<Json<Submission>, JsonRejection>,
) -> Answer<Submitted> {
    let Json(Submission { transfer }) = submission?;
    let body = hex::decode(&transfer)
        .map_err(|error| Problem::bad_request(format!("transfer: not in hex: {error}")))?;
    if body.len() != Transfer::SIZE {
        let (size, wanted) = (body.len(), Transfer::SIZE);
        return Err(Problem::bad_request(format!("a transfer has {wanted} bytes, not {size}")));
    }
    let id = Transfer::id(&body).to_string();
    let publishing = api.app.submit(&api.node, body.into()).map_err(|error| match error {
        SubmitError::Unsigned => Problem::new(StatusCode::FORBIDDEN, error.to_string()),
        SubmitError::DoesNotHold { .. } => Problem::new(StatusCode::CONFLICT, error.to_string()),
        SubmitError::Node(error) => error.into(),
    })?;
    match publishing.await? {
        Fate::Accepted => Ok(Json(Submitted { id, fate: model::Fate::Accepted })),
        Fate::Known => Ok(Json(Submitted { id, fate: model::Fate::Known })),
        Fate::Outranked { priority } => Err(Problem::new(
            StatusCode::CONFLICT,
            format!(
                "another transfer of the account has this number, and a fee of {priority}: give more"
            ),
        )),
        Fate::NotAdmitted => Err(Problem::new(
            StatusCode::CONFLICT,
            "its number is used, or too far ahead of the account's: ask for the next".to_owned(),
        )),
        Fate::Full { floor } => {
            Err(Problem::unavailable(format!("the pool is full: it takes fees above {floor}")))
        }
        Fate::Invalid(why) => Err(Problem::bad_request(why.to_string())),
        fate => {
            let text = format!("the node did not take it: {fate:?}");
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, text))
        }
    }
}

/// What happens, as server-sent events
///
/// Each has a name, JSON as data, and an id. Who gives the last id it has seen as `Last-Event-ID`
/// (as browsers do) misses nothing that the node still remembers; what it does not is told by an
/// event `missed`, whose `count` is null if the node was restarted meanwhile.
#[utoipa::path(get, path = "/v1/events",
    params(("Last-Event-ID" = Option<String>, Header, description = "The last event that was seen")),
    responses(
        (status = 200, content_type = "text/event-stream", body = String),
        (status = 503, description = "Too many listen", body = Problem,
            content_type = "application/problem+json"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn events(
    State(api): State<Api>,
    headers: HeaderMap,
) -> Result<Sse<axum::response::sse::KeepAliveStream<EventStream>>, Problem> {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let stream = api.events.listen(last).ok_or_else(|| {
        Problem::unavailable(format!("{LISTENERS} listen already: try again when one is gone"))
    })?;
    Ok(Sse::new(stream).keep_alive(keep_alive()))
}

/// Whether the node is there at all
#[utoipa::path(get, path = "/health", responses(
    (status = 204, description = "It is"),
    (status = 503, description = "Its store has failed, or it does not answer",
        body = Problem, content_type = "application/problem+json"),
    (status = "default", body = Problem, content_type = "application/problem+json")
))]
pub(super) async fn health(State(api): State<Api>) -> Result<StatusCode, Problem> {
    if let Some(error) = api.node.failure() {
        return Err(Problem::unavailable(error.to_string()));
    }
    match tokio::time::timeout(ALIVE, api.node.traffic()).await {
        Ok(answer) => answer.map(|_| StatusCode::NO_CONTENT).map_err(Problem::from),
        Err(_) => Err(Problem::unavailable(format!("the node does not answer within {ALIVE:?}"))),
    }
}

/// Whether the node is of use: connected, if it was given anybody to connect to, and not far behind
#[utoipa::path(get, path = "/ready", responses(
    (status = 200, body = Ready),
    (status = 503, description = "It is not yet", body = Ready),
    (status = "default", body = Problem, content_type = "application/problem+json")
))]
pub(super) async fn ready(State(api): State<Api>) -> Result<(StatusCode, Json<Ready>), Problem> {
    let mut reasons = Vec::new();
    if api.node.status().await?.peers.is_empty() && !api.alone {
        reasons.push("no peer is connected".to_owned());
    }
    if api.events.syncing() {
        reasons.push("it is catching up with its peers".to_owned());
    }
    let ready = reasons.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(Ready { ready, reasons })))
}

/// This document
#[utoipa::path(get, path = "/openapi.json", responses(
    (status = 200, body = serde_json::Value),
    (status = "default", body = Problem, content_type = "application/problem+json")
))]
pub(super) async fn document() -> impl IntoResponse {
    Json(super::openapi())
}
