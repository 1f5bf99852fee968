//! go-spiffe and Kith, both with SVIDs from the same SPIRE, talk to each other: the program is `tests/interop/go`.

use std::path::Path;
use std::sync::Arc;

use kith::lab::{Workload, WorkloadSpec};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{Entry, ORDERS, Shop, WEB};
use crate::expect;
use crate::partner::allow;
use crate::programs;

const LEDGER: &str = "/ns/partners/sa/ledger";
const STRANGER: &str = "/ns/partners/sa/stranger";

impl Shop {
    /// A machine without sidecar, and the copy of the program that runs there under an SVID of its own.
    async fn partner(&self, name: &str, path: &str) -> (Arc<Workload>, String) {
        let spec = WorkloadSpec::new("partners", name).without_sidecar();
        let ports = [(8443, "HTTP"), (9443, "TCP")];
        let mut spec = ports
            .iter()
            .fold(spec, |spec, (port, protocol)| spec.port(*port, protocol));
        spec.announced = false;
        let workload = self.lab.workload(spec).await.unwrap();
        let program = programs::spire("spiffe-peer");
        let entry = Entry {
            path,
            ..Entry::default()
        };
        let (copy, _) = self.spire.register_copy(Path::new(&program), entry).await;
        (workload, copy.to_str().unwrap().to_owned())
    }

    fn socket(&self) -> String {
        self.spire.workload_api().to_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_go_spiffe_client_calls_a_workload_behind_kith_and_is_known_by_name() {
    let shop = Shop::open(0).await;
    let (ledger, program) = shop.partner("ledger", LEDGER).await;
    let (stranger, strange_program) = shop.partner("stranger", STRANGER).await;
    let (id, orders, socket) = (shop.spire.id(LEDGER), shop.spire.id(ORDERS), shop.socket());
    shop.lab
        .apply("policies", &allow("orders", &[&id]))
        .await
        .unwrap();

    let url = "https://orders.shop.pod:8080/by-go";
    let output = ledger
        .exec(&[&program, "get", &socket, &orders, url])
        .await
        .unwrap();
    expect::success(&output);
    let expected =
        json!({"status": 200, "server": orders, "protocol": "HTTP/1.1", "tls": "TLS 1.3"});
    expect::fields(&output.json(), &expected);
    let record = shop
        .orders
        .wait_record(|record| record["http.path"] == "/by-go")
        .await
        .unwrap();
    let expected =
        json!({"decision": "allow", "source.principal": id, "destination.principal": orders});
    expect::fields(&record, &expected);

    let output = ledger
        .exec(&[
            &program,
            "tell",
            &socket,
            &orders,
            "orders.shop.pod:7000",
            "hello",
        ])
        .await
        .unwrap();
    expect::success(&output);
    expect::fields(
        &output.json(),
        &json!({"server": orders, "line": "hello\n"}),
    );
    let opaque =
        |record: &Value| record["record"] == "connection" && record["destination.port"] == 7000;
    let record = shop.orders.wait_record(opaque).await.unwrap();
    expect::fields(&record, &expected);

    let output = stranger
        .exec(&[&strange_program, "get", &socket, &orders, url])
        .await
        .unwrap();
    expect::success(&output);
    expect::fields(
        &output.json(),
        &json!({"status": 403, "reason": "no-allow-policy-matches"}),
    );
    let strange = shop.spire.id(STRANGER);
    shop.orders
        .wait_record(|record| record["source.principal"] == strange.as_str())
        .await
        .unwrap();
}

#[tokio::test]
async fn an_application_behind_kith_calls_a_go_spiffe_server_that_knows_it_by_name() {
    let shop = Shop::open(0).await;
    let (ledger, program) = shop.partner("ledger", LEDGER).await;
    let (id, web, socket) = (shop.spire.id(LEDGER), shop.spire.id(WEB), shop.socket());
    let server = [
        program.as_str(),
        "serve",
        &socket,
        &web,
        "[::]:8443",
        "[::]:9443",
    ];
    let server = ledger.spawn(&server).unwrap();
    server.says("listening").await.unwrap();
    shop.announce(&ledger, &id).await;

    let reply = shop
        .web
        .get("http://ledger.partners:8443/to-go")
        .await
        .unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    expect::fields(
        &reply.json(),
        &json!({"client": web, "protocol": "HTTP/1.1", "alpn": "http/1.1"}),
    );
    let record = shop
        .web
        .wait_record(|record| record["http.path"] == "/to-go")
        .await
        .unwrap();
    let expected =
        json!({"decision": "allow", "source.principal": web, "destination.principal": id});
    expect::fields(&record, &expected);

    let address = shop.web.resolve("ledger.partners:9443").unwrap();
    let talk = move || async move {
        let mut stream = BufReader::new(TcpStream::connect(address).await?);
        stream.write_all(b"hello\n").await?;
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        std::io::Result::Ok(line)
    };
    let line = shop.web.enter(talk).await.unwrap().unwrap();
    assert_eq!(line, format!("{web} said hello\n"));
    let opaque =
        |record: &Value| record["record"] == "connection" && record["destination.port"] == 9443;
    expect::fields(&shop.web.wait_record(opaque).await.unwrap(), &expected);

    // The server takes web and nobody else.
    let orders = shop
        .orders
        .get("http://ledger.partners:8443/not-web")
        .await
        .unwrap();
    assert_eq!(orders.status, 503, "{}", orders.text());

    // A server that isn't the one expected gets no request, whoever vouches for it.
    shop.announce(&ledger, &shop.spire.id(STRANGER)).await;
    let reply = shop
        .web
        .get("http://ledger.partners:8443/impostor")
        .await
        .unwrap();
    assert_eq!(reply.status, 503, "{}", reply.text());
    let record = shop
        .web
        .wait_record(|record| record["http.path"] == "/impostor")
        .await
        .unwrap();
    expect::fields(
        &record,
        &json!({"decision": "deny", "reason": "server-identity-mismatch"}),
    );
}

impl Shop {
    /// Tells the mesh what `ledger`, which needs no sidecar to prove itself, has to prove.
    async fn announce(&self, ledger: &Workload, id: &str) {
        let workload = json!({
            "apiVersion": "kith.dev/v1alpha1", "kind": "Workload",
            "metadata": {"namespace": "partners", "name": "ledger", "labels": {"app": "ledger"}},
            "spec": {
                "serviceAccount": "ledger", "spiffeId": id, "addresses": ledger.addresses.both(), "mesh": true,
                "ports": [{"port": 8443, "protocol": "HTTP"}, {"port": 9443, "protocol": "TCP"}],
            },
        });
        self.lab
            .apply("ledger", &format!("{workload:#}\n"))
            .await
            .unwrap();
    }
}
