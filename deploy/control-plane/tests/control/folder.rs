//! The folder, live: bad files, half-written files, files that come and go.

use std::io::Write;
use std::time::Duration;

use kith_xds_client::Kind;

use crate::harness::{MESH, Mesh, policy};

#[tokio::test]
async fn a_bad_file_keeps_the_last_good_state_and_is_reported_with_file_line_and_field() {
    let mesh = Mesh::start(&[("mesh.yaml", MESH), ("policy.yaml", &policy("a", "GET"))]).await;
    let mut orders = mesh.sidecar("orders", "shop/orders-1").await;
    orders.take_everything("shop/orders-1", &["shop/a"]).await;

    mesh.write(
        "policy.yaml",
        &policy("a", "GET").replace("methods", "metods"),
    );
    // A good edit elsewhere waits too: half a folder was never anybody's intention.
    mesh.write("more.yaml", &policy("b", "GET"));
    let status = mesh
        .status_when(|s| !s["load"]["problems"].as_array().unwrap().is_empty())
        .await;
    let mut problem = status["load"]["problems"][0].clone();
    let file = problem["file"].take();
    assert!(
        file.as_str().unwrap().ends_with("files/policy.yaml"),
        "{file}"
    );
    assert_eq!(
        problem,
        serde_json::json!({
            "file": null,
            "line": 9,
            "field": "spec.rules[0].to[0].operation.metods",
            "message": "unknown field `metods`, expected one of `hosts`, `notHosts`, `ports`, `notPorts`, `methods`, \
                        `notMethods`, `paths`, `notPaths`"
        })
    );
    assert_eq!(status["ready"], true);
    orders.silent(Duration::from_millis(100)).await;

    mesh.write("policy.yaml", &policy("a", "PUT"));
    assert_eq!(orders.take().await, "AuthorizationPolicy +shop/a");
    assert_eq!(orders.take().await, "WorkloadConfig +shop/orders-1");
    orders
        .subscribe(Kind::AuthorizationPolicy, &["shop/b"])
        .await;
    assert_eq!(orders.take().await, "AuthorizationPolicy +shop/b");
    mesh.status_when(|s| s["load"]["problems"].as_array().unwrap().is_empty())
        .await;
}

#[tokio::test]
async fn nothing_is_said_before_the_folder_was_good_once() {
    let mesh = Mesh::start(&[("mesh.yaml", "kind: nonsense\n")]).await;
    mesh.status_when(|s| !s["load"]["problems"].as_array().unwrap().is_empty())
        .await;
    let (code, ready) = mesh.get("/ready").await;
    assert_eq!(code, 503);
    let reason = ready["not_ready"][0].as_str().unwrap();
    assert!(
        reason.contains("mesh.yaml:1: apiVersion: required"),
        "{reason}"
    );
    let mut web = mesh.sidecar("web", "shop/web-1").await;
    web.subscribe(Kind::WorkloadConfig, &["shop/web-1"]).await;
    // Not even "there is none": the sidecar would let go of what it has.
    web.silent(Duration::from_millis(100)).await;
    mesh.write("mesh.yaml", MESH);
    assert_eq!(web.take().await, "WorkloadConfig +shop/web-1");
    assert_eq!(mesh.get("/ready").await.0, 200);
}

#[tokio::test]
async fn a_file_is_not_read_while_it_is_being_written() {
    let whole = policy("a", "GET") + "---\n" + &policy("b", "GET");
    let mesh = Mesh::start(&[("mesh.yaml", MESH), ("policy.yaml", &whole)]).await;
    let mut orders = mesh.sidecar("orders", "shop/orders-1").await;
    orders
        .take_everything("shop/orders-1", &["shop/a", "shop/b"])
        .await;
    // The first half alone would be a valid folder without the second policy.
    let mut file = std::fs::File::create(mesh.files().join("policy.yaml")).unwrap();
    file.write_all(policy("a", "GET").as_bytes()).unwrap();
    orders.silent(Duration::from_millis(300)).await;
    file.write_all(format!("---\n{}", policy("b", "PUT")).as_bytes())
        .unwrap();
    drop(file);
    assert_eq!(orders.take().await, "AuthorizationPolicy +shop/b");
    assert_eq!(orders.take().await, "WorkloadConfig +shop/orders-1");
}

#[tokio::test]
async fn files_and_folders_that_come_and_go_take_effect() {
    let mesh = Mesh::start(&[("mesh.yaml", MESH)]).await;
    let mut orders = mesh.sidecar("orders", "shop/orders-1").await;
    orders.take_everything("shop/orders-1", &[]).await;
    let team = mesh.files().join("team");
    std::fs::create_dir(&team).unwrap();
    std::fs::write(team.join("policy.yaml"), policy("a", "GET")).unwrap();
    assert_eq!(orders.take().await, "WorkloadConfig +shop/orders-1");
    orders
        .subscribe(Kind::AuthorizationPolicy, &["shop/a"])
        .await;
    assert_eq!(orders.take().await, "AuthorizationPolicy +shop/a");
    std::fs::remove_dir_all(&team).unwrap();
    // The configuration without it, then its removal.
    assert_eq!(orders.take().await, "WorkloadConfig +shop/orders-1");
    assert_eq!(orders.take().await, "AuthorizationPolicy -shop/a");
}

/// How Kubernetes mounts a ConfigMap: files are links through `..data`, which is replaced in one step.
#[tokio::test]
async fn a_mounted_config_map_that_is_replaced_takes_effect() {
    let mesh = Mesh::start(&[("mesh.yaml", MESH)]).await;
    let mut orders = mesh.sidecar("orders", "shop/orders-1").await;
    orders.take_everything("shop/orders-1", &[]).await;
    let publish = |version: &str, text: &str| {
        let link =
            |to: &str, at: &str| std::os::unix::fs::symlink(to, mesh.files().join(at)).unwrap();
        std::fs::create_dir(mesh.files().join(version)).unwrap();
        std::fs::write(mesh.files().join(version).join("policy.yaml"), text).unwrap();
        link(version, "..data_tmp");
        std::fs::rename(mesh.files().join("..data_tmp"), mesh.files().join("..data")).unwrap();
        if !mesh.files().join("policy.yaml").exists() {
            link("..data/policy.yaml", "policy.yaml");
        }
    };
    publish("..1", &policy("a", "GET"));
    assert_eq!(orders.take().await, "WorkloadConfig +shop/orders-1");
    orders
        .subscribe(Kind::AuthorizationPolicy, &["shop/a"])
        .await;
    assert_eq!(orders.take().await, "AuthorizationPolicy +shop/a");
    publish("..2", &policy("a", "PUT"));
    assert_eq!(orders.take().await, "AuthorizationPolicy +shop/a");
    assert_eq!(orders.take().await, "WorkloadConfig +shop/orders-1");
}
