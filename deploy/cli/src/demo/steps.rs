//! What the demo shows, step by step. Each is told what to expect before it runs, and gives back what it saw.

use std::io;

use serde_json::Value;

use super::mesh::Mesh;
use super::screen::{Screen, Step};
use crate::app::client::{Call, Reply};
use crate::app::grpc;

mod identity;
mod lasting;
mod policy;
mod revocation;
mod token;

pub(crate) use identity::{
    AUTHORITY_BACK, AUTHORITY_GONE, ROTATION, authority_back, authority_gone, svids_rotate,
};
use lasting::Lasting;
pub(crate) use policy::{
    DRY_RUN, POLICY_EDITED, POLICY_RESTORED, dry_run, policy_edited, policy_restored,
};
pub(crate) use revocation::{REVOKED, revoked};
pub(crate) use token::{TOKEN, token_ends};

/// What went otherwise.
pub(crate) type Failure = Box<dyn std::error::Error>;
/// What was seen.
pub(crate) type Seen = Result<String, Failure>;

/// Where the steps take place.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) mesh: Mesh,
    pub(crate) screen: Screen,
    /// Opened while the policy allows them; what follows must leave them alone.
    pub(crate) lasting: Option<Lasting>,
}

pub(crate) const START: Step = Step {
    name: "mesh-starts",
    title: "The mesh starts",
    expected: "authority, control plane and the sidecars of web, gateway, orders and payments become ready",
};

pub(crate) const HTTP_ALLOWED: Step = Step {
    name: "http-allowed",
    title: "web calls orders over HTTP",
    expected: "200; orders is told by its sidecar who called, as proved by mTLS",
};

pub(crate) async fn http_allowed(scene: &mut Scene) -> Seen {
    let reply = scene
        .mesh
        .web
        .get("http://orders.shop:8080/orders/1")
        .await?;
    expect(reply.status == 200, || describe(&reply))?;
    let told = reply.json()["headers"]["x-forwarded-client-cert"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let web = scene.mesh.web.spiffe_id();
    expect(told.contains(&format!("URI={web}")), || {
        format!("x-forwarded-client-cert: {told:?}")
    })?;
    Ok(format!("200; x-forwarded-client-cert has URI={web}"))
}

pub(crate) const CALL_FOLLOWED: Step = Step {
    name: "call-followed",
    title: "web calls orders, which calls payments",
    expected: "200 from both; the records of all three sidecars share one request id",
};

pub(crate) async fn call_followed(scene: &mut Scene) -> Seen {
    let Mesh {
        web,
        orders,
        payments,
        ..
    } = &scene.mesh;
    let reply = web
        .get("http://orders.shop:8080/call?url=http://payments.shop:8080/charges/1")
        .await?;
    let inner = &reply.json()["status"];
    expect(reply.status == 200 && inner == 200, || describe(&reply))?;
    let charge = payments
        .wait_record(|record| record["http.path"] == "/charges/1")
        .await?;
    let id = charge["request.id"].clone();
    expect(id.is_string(), || {
        format!("the record of payments has no request.id: {charge}")
    })?;
    web.wait_record(|record| record["request.id"] == id && record["direction"] == "outbound")
        .await?;
    orders
        .wait_record(|record| record["request.id"] == id && record["direction"] == "inbound")
        .await?;
    orders
        .wait_record(|record| record["request.id"] == id && record["direction"] == "outbound")
        .await?;
    Ok(format!(
        "200 and 200; request.id {} in 4 records of 3 sidecars",
        id.as_str().unwrap_or_default()
    ))
}

pub(crate) const GRPC_ALLOWED: Step = Step {
    name: "grpc-allowed",
    title: "web calls orders over gRPC",
    expected: "a unary call and a stream of 3 messages, both with status 0 in the trailers",
};

pub(crate) async fn grpc_allowed(scene: &mut Scene) -> Seen {
    let web = &scene.mesh.web;
    let address = web.resolve("orders.shop:9090")?;
    let (unary, orders, stream) = web
        .enter(move || async move {
            let (_, unary) = grpc::client::get(address, "orders.shop:9090", "1").await?;
            let first = grpc::WatchOrders {
                count: 3,
                interval_ms: 10,
            };
            let mut stream =
                grpc::client::Stream::open(address, "orders.shop:9090", "Watch", &first).await?;
            let mut orders = 0;
            while stream.next::<grpc::Order>().await?.is_some() {
                orders += 1;
            }
            io::Result::Ok((unary, orders, stream.status()))
        })
        .await??;
    expect((unary.code, orders, stream.code) == (0, 3, 0), || {
        format!("{unary:?}, {orders} messages, {stream:?}")
    })?;
    Ok("Get: status 0; Watch: 3 messages, status 0".to_owned())
}

pub(crate) const NOT_ALLOWED: Step = Step {
    name: "not-allowed",
    title: "web calls payments, which only orders may",
    expected: "403, x-kith-reason: no-allow-policy-matches; the record names the policy that came nearest and what failed",
};

pub(crate) async fn not_allowed(scene: &mut Scene) -> Seen {
    let reply = scene
        .mesh
        .web
        .get("http://payments.shop:8080/charges/2")
        .await?;
    denied(&reply, "no-allow-policy-matches")?;
    let record = scene
        .mesh
        .payments
        .wait_record(|record| record["http.path"] == "/charges/2")
        .await?;
    let clause = |key: &str| record[key].as_str().unwrap_or("nothing").to_owned();
    expect(record["nearest.policy"] == "shop/payments", || {
        format!("the record: {record}")
    })?;
    Ok(format!(
        "403 no-allow-policy-matches; nearest: {}, {}",
        clause("nearest.policy"),
        clause("nearest.clause")
    ))
}

pub(crate) const DENIED: Step = Step {
    name: "denied-by-rule",
    title: "web deletes an order, which nobody may",
    expected: "403, x-kith-reason: denied-by-rule; the record names policy shop/no-deletes",
};

pub(crate) async fn denied_by_rule(scene: &mut Scene) -> Seen {
    let mut call =
        Call::get("http://orders.shop:8080/orders/1".parse::<crate::app::client::Url>()?);
    call.method = Some("DELETE".to_owned());
    let reply = scene.mesh.web.call(call).await?;
    denied(&reply, "denied-by-rule")?;
    let record = scene
        .mesh
        .orders
        .wait_record(|record| record["http.method"] == "DELETE")
        .await?;
    expect(record["policy"] == "shop/no-deletes", || {
        format!("the record: {record}")
    })?;
    Ok(format!(
        "403 denied-by-rule; policy shop/no-deletes, rule {}",
        record["rule"]
    ))
}

pub(crate) const PLAINTEXT: Step = Step {
    name: "plaintext-denied",
    title: "stranger, without a sidecar, calls orders in plaintext",
    expected: "no answer of the application; a record with reason peer-unauthenticated",
};

pub(crate) async fn plaintext_denied(scene: &mut Scene) -> Seen {
    let Mesh {
        stranger, orders, ..
    } = &scene.mesh;
    let outcome = match stranger.get("http://orders.shop.pod:8080/orders/1").await {
        Ok(reply) if reply.status < 400 => {
            return Err(format!("the application answered: {}", describe(&reply)).into());
        }
        Ok(reply) => describe(&reply),
        Err(error) => format!(
            "the connection ended: {}",
            crate::app::client::root_cause(&error)
        ),
    };
    let from = stranger.addresses.v4.to_string();
    let from_stranger = |record: &Value| {
        record["source.address"]
            .as_str()
            .is_some_and(|source| source.contains(&from))
    };
    let record = orders.wait_record(from_stranger).await?;
    expect(
        record["decision"] == "deny" && record["reason"] == "peer-unauthenticated",
        || format!("the record: {record}"),
    )?;
    Ok(format!("{outcome}; the record says peer-unauthenticated"))
}

pub(crate) const HOPS: Step = Step {
    name: "hops-join",
    title: "The records of both ends of a call are joined",
    expected: "the sidecars of web and orders wrote the same hop id, which neither sent to the other",
};

pub(crate) async fn hops_join(scene: &mut Scene) -> Seen {
    let (client, server) = hop(&scene.mesh).await?;
    expect(
        client["source.principal"] == server["source.principal"],
        || format!("{client}\n{server}"),
    )?;
    Ok(format!(
        "hop {} in both, shown below",
        client["hop"].as_str().unwrap_or_default()
    ))
}

/// Both ends' records of the call that went on to `payments`.
pub(crate) async fn hop(mesh: &Mesh) -> Result<(Value, Value), Failure> {
    let outbound =
        |record: &Value| record["direction"] == "outbound" && record["http.path"] == "/call";
    let client = mesh.web.wait_record(outbound).await?;
    expect(client["hop"].is_string(), || {
        format!("no hop id in {client}")
    })?;
    let server = mesh
        .orders
        .wait_record(|record| record["direction"] == "inbound" && record["hop"] == client["hop"])
        .await?;
    Ok((client, server))
}

fn is_connection(record: &Value, port: u16) -> bool {
    record["direction"] == "inbound"
        && record["record"] == "connection"
        && record["destination.port"] == port
}

fn denied(reply: &Reply, reason: &str) -> Result<(), Failure> {
    expect(
        reply.status == 403 && reply.header("x-kith-reason") == Some(reason),
        || describe(reply),
    )
}

fn describe(reply: &Reply) -> String {
    let reason = reply
        .header("x-kith-reason")
        .map(|reason| format!(" {reason}"))
        .unwrap_or_default();
    let text = reply.text();
    format!(
        "{}{reason} {}",
        reply.status,
        text.trim().chars().take(200).collect::<String>()
    )
    .trim_end()
    .to_owned()
}

fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds {
        Ok(())
    } else {
        Err(otherwise().into())
    }
}
