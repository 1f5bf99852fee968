//! A gateway passes on its customer's token, and what was allowed by it ends when the token does.

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kith_certs::authority::jwt::Issuer;
use kith_certs::jwt::Algorithm;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Failure, Scene, Seen, describe, expect};
use crate::app::client::{Call, Url};
use crate::demo::mesh::Mesh;
use crate::demo::screen::Step;

/// How long the customer's token is good.
const TOKEN_LIFE: Duration = Duration::from_secs(3);

const ISSUER: &str = "https://login.example";

pub(crate) const TOKEN: Step = Step {
    name: "token-ends",
    title: "gateway calls orders for a customer, with the customer's token, good for 3 seconds",
    expected: "refused without the token; with it a stream that ends when the token does; refused again with the same token",
};

/// Who may issue tokens for `orders`, and that gateway reads the customer's stream only with one of them.
fn customers(keys: &str) -> String {
    let documents = [
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
            "metadata": {"namespace": "shop", "name": "customers"},
            "spec": {
                "selector": {"matchLabels": {"app": "orders"}},
                "jwtRules": [{"issuer": ISSUER, "jwks": keys, "audiences": ["shop"]}],
            },
        }),
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"namespace": "shop", "name": "customers"},
            "spec": {
                "selector": {"matchLabels": {"app": "orders"}},
                "rules": [{
                    "from": [{"source": {
                        "principals": ["example.org/ns/shop/sa/gateway"],
                        "requestPrincipals": [format!("{ISSUER}/*")],
                    }}],
                    "to": [{"operation": {"paths": ["/stream"]}}],
                }],
            },
        }),
    ];
    documents
        .map(|document| format!("{document:#}\n"))
        .join("---\n")
}

pub(crate) async fn token_ends(scene: &mut Scene) -> Seen {
    let Scene { mesh, screen, .. } = scene;
    let Mesh {
        gateway,
        orders,
        lab,
        ..
    } = &*mesh;
    let issuer = Issuer::generate(Algorithm::Es256)?;
    lab.apply("customers", &customers(&issuer.jwks())).await?;

    let call = |headers: Vec<String>| -> Result<Call, Failure> {
        let url = "http://orders.shop:8080/stream?ticks=1".parse::<Url>()?;
        Ok(Call {
            headers,
            ..Call::get(url)
        })
    };
    let without = gateway.call(call(Vec::new())?).await?;
    expect(
        without.status == 401 && without.header("x-kith-reason") == Some("token-missing"),
        || describe(&without),
    )?;

    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let expires = (now + TOKEN_LIFE).as_secs();
    let claims = json!({"iss": ISSUER, "sub": "alice", "aud": "shop", "exp": expires});
    let token = issuer.sign(&claims)?;
    let until = UNIX_EPOCH + Duration::from_secs(expires);

    screen.progress("gateway reads the stream until it ends");
    let address = gateway.resolve("orders.shop:8080")?;
    let request = format!(
        "GET /stream?ticks=0&ms=100 HTTP/1.1\r\nhost: orders.shop\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    let began = Instant::now();
    let reading = gateway.enter(move || async move {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut heard = Vec::new();
        // However it ends: what counts is when.
        let _ = stream.read_to_end(&mut heard).await;
        io::Result::Ok((heard, SystemTime::now()))
    });
    let (heard, ended) = tokio::time::timeout(TOKEN_LIFE * 4, reading)
        .await
        .map_err(|_| {
            format!(
                "the stream is still open {} s after it began",
                began.elapsed().as_secs()
            )
        })???;
    let heard = String::from_utf8_lossy(&heard).into_owned();
    let ticks = heard.matches("tick ").count();
    expect(heard.starts_with("HTTP/1.1 200") && ticks > 1, || {
        heard.clone()
    })?;
    let late = ended.duration_since(until).unwrap_or_default();
    expect(
        ended + Duration::from_millis(50) >= until && late < Duration::from_secs(1),
        || format!("the stream ended {ended:?}, the token {until:?}"),
    )?;

    let again = gateway
        .call(call(vec![format!("authorization: Bearer {token}")])?)
        .await?;
    expect(
        again.status == 401 && again.header("x-kith-reason") == Some("token-expired"),
        || describe(&again),
    )?;
    let record = orders
        .wait_record(|record| {
            record["http.path"] == "/stream"
                && record["reason"] == "token-expired"
                && record["closed_by"] == "expiry"
        })
        .await?;
    expect(record["end_user.subject"] == "alice", || {
        format!("the record: {record}")
    })?;
    Ok(format!(
        "401 token-missing; {ticks} messages for {} of {ISSUER}, ended {} ms after the token; then 401 token-expired",
        record["end_user.subject"].as_str().unwrap_or_default(),
        late.as_millis()
    ))
}
