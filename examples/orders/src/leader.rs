//! What only the cluster's leader does, and how calls get to it over HTTP.
//!
//! Duractor brings them over the links between nodes unless told otherwise. [`HttpForward`] brings them
//! to the same port that clients use: for a deployment in which only that is open between nodes, say.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{Path, State},
    http::{Request, StatusCode},
    response::{IntoResponse, Response},
};
use duractor::{
    Command, Forward, LeaderCall, LeaderError, LeaderInfo, Leadership, Member, Node, TookEffect,
};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::web::{self, NoAnswer, Pool};

/// Asks the leader who it is.
#[derive(Debug, Clone, Command)]
#[command(reply = Leads, name = "who-leads")]
pub struct WhoLeads;

/// The leader's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leads {
    /// The node's number.
    pub node: u32,
    /// The fencing token of its leadership: every later leader has a higher one.
    pub token: u64,
}

/// The handler, as it is registered on node number `node`: it runs only where that is the leader.
pub fn who_leads(
    node: u32,
) -> impl Fn(Leadership, WhoLeads) -> std::future::Ready<Leads> + Send + Sync + 'static {
    move |leadership, _| std::future::ready(Leads { node, token: leadership.token() })
}

/// Calls to the leader over HTTP: `POST /leader/{command}/{version}`, with the command's bytes. It is
/// for nodes alone: whoever may send it commands the leader. Give it a port or a proxy that lets
/// nobody else in.
pub struct HttpForward {
    /// Where nodes take requests, by their numbers.
    pub nodes: BTreeMap<u32, SocketAddr>,
    /// Its connections.
    pub pool: Pool,
}

impl Forward for HttpForward {
    fn forward(
        &self,
        to: LeaderInfo,
        call: LeaderCall,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Bytes, LeaderError>> {
        let (pool, address) = (self.pool.clone(), self.nodes.get(&to.member.node.0).copied());
        Box::pin(async move {
            let nowhere = || unreachable(to.member, "its address is not known", TookEffect::None);
            let uri = format!("http://{}/leader", address.ok_or_else(nowhere)?);
            let bring = bring(&pool, uri, to.member, call);
            timeout(patience, bring).await.unwrap_or(Err(LeaderError::Timeout))
        })
    }
}

async fn bring(
    pool: &Pool,
    uri: String,
    leader: Member,
    call: LeaderCall,
) -> Result<Bytes, LeaderError> {
    let LeaderCall { name, version, payload } = call;
    let request = Request::post(format!("{uri}/{name}/{version}")).body(Body::from(payload));
    let request = request.map_err(|error| unreachable(leader, error, TookEffect::None))?;
    match web::exchange(pool, request).await {
        Ok((StatusCode::OK, reply)) => Ok(reply),
        // Another leads: the framework looks for it, and tries again.
        Ok((StatusCode::MISDIRECTED_REQUEST, _)) => Err(LeaderError::NotLeader { leader: None }),
        Ok((StatusCode::SERVICE_UNAVAILABLE, text)) => {
            Err(unreachable(leader, String::from_utf8_lossy(&text), TookEffect::None))
        }
        Ok((status, _)) => Err(unreachable(leader, status, TookEffect::Unknown)),
        Err(error @ NoAnswer::NotSent(_)) => Err(unreachable(leader, error, TookEffect::None)),
        Err(error @ NoAnswer::Cut(_)) => Err(unreachable(leader, error, TookEffect::Unknown)),
    }
}

fn unreachable(leader: Member, reason: impl ToString, effect: TookEffect) -> LeaderError {
    LeaderError::Unreachable { leader, reason: reason.to_string(), effect }
}

/// The other end: `POST /leader/{command}/{version}`.
pub(crate) async fn arrived(
    State(node): State<Node>,
    Path((name, version)): Path<(String, u16)>,
    payload: Bytes,
) -> Response {
    match node.leader().handle(LeaderCall { name, version, payload }).await {
        Ok(reply) => reply.into_response(),
        Err(LeaderError::NotLeader { .. }) => StatusCode::MISDIRECTED_REQUEST.into_response(),
        Err(error) if error.effect() == TookEffect::None => {
            (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response()
        }
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}
