//! What the README tells people to type works.

use std::path::{Path, PathBuf};
use std::process::Command;

use kith::lab::{Lab, LabOptions, WorkloadSpec};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// Where cargo put the programs that stand beside this test.
pub(crate) fn program(name: &str) -> PathBuf {
    let mut folder = std::env::current_exe().unwrap();
    folder.pop();
    if folder.ends_with("deps") {
        folder.pop();
    }
    folder.join(name)
}

/// The commands in the README's `sh` blocks, comments removed.
fn commands() -> Vec<String> {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let mut inside = false;
    let mut commands = Vec::new();
    for line in readme.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            _ if inside => {
                let command = line.split('#').next().unwrap().trim();
                if !command.is_empty() {
                    commands.push(command.to_owned());
                }
            }
            _ => {}
        }
    }
    commands
}

#[tokio::test]
async fn every_command_of_the_readme_works() {
    let commands = commands();
    assert!(commands.len() >= 11, "found only {commands:?}");
    let mut started = false;
    let mut orders = Vec::new();
    for command in &commands {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words.as_slice() {
            ["make", target, ..] => makes(target),
            ["cargo", "run", "-q", "--bin", name, "--", arguments @ ..] => {
                let status = Command::new(program(name))
                    .args(arguments)
                    .current_dir(root())
                    .status()
                    .unwrap();
                assert!(status.success(), "{command}: {status}");
            }
            // These together: a mesh of the programs as they are shipped, and what an operator asks of it.
            ["kith-control", "serve", "--files", _]
            | ["kith-proxy", "capture", "--uid", "1337"]
            | ["kith-proxy", "run"] => started = true,
            ["kith", "status" | "revoke", ..] => orders.push(command.as_str()),
            other => panic!("the README says {other:?}, and no test runs it"),
        }
    }
    assert!(started && orders.len() == 2, "{orders:?}");
    a_mesh_of_shipped_programs(&orders).await;
}

/// `make test` runs this very test and `make demo` the walk that deploy/cli's tests run; here they must exist and have
/// everything they call.
fn makes(target: &str) {
    let output = Command::new("make")
        .args(["-n", target])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "make {target}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

async fn a_mesh_of_shipped_programs(operator: &[&str]) {
    let options = LabOptions {
        proxy: Some(program("kith-proxy")),
        control: Some(program("kith-control")),
        ..LabOptions::default()
    };
    let lab = Lab::new(options).await.unwrap();
    let web = lab
        .workload(WorkloadSpec::new("shop", "web"))
        .await
        .unwrap();
    let orders = lab
        .workload(WorkloadSpec::new("shop", "orders").port(8080, "HTTP"))
        .await
        .unwrap();
    let _app = orders.app(&["http", "--name", "orders"]).await.unwrap();
    let policy =
        std::fs::read_to_string(root().join("deploy/examples/shop/orders-policy.yaml")).unwrap();
    lab.apply("orders-policy", &policy).await.unwrap();
    assert_eq!(
        web.get("http://orders.shop:8080/orders/7")
            .await
            .unwrap()
            .status,
        200
    );
    assert_eq!(
        web.get("http://orders.shop:8080/admin")
            .await
            .unwrap()
            .status,
        403
    );
    for order in operator {
        let status = Command::new("sh")
            .args(["-c", &format!("exec {}{}", program("").display(), order)])
            .env("KITH_CONTROL_SOCKET", lab.control().admin_socket())
            .status()
            .unwrap();
        assert!(status.success(), "{order}: {status}");
    }
    // The last order revoked web.
    let refused = web.get("http://orders.shop:8080/orders/7").await.unwrap();
    assert_eq!(refused.header("x-kith-reason"), Some("principal-revoked"));
}

/// Each variable that the README lists is one that `--help` knows, and the other way round.
#[test]
fn the_readme_lists_the_variables_that_there_are() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let help = Command::new(program("kith-proxy"))
        .args(["run", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let mut known: Vec<&str> = help
        .split(|c: char| !(c.is_ascii_uppercase() || c == '_'))
        .filter(|word| {
            (word.starts_with("KITH_") || *word == "SPIFFE_ENDPOINT_SOCKET") && word.len() > 5
        })
        .collect();
    known.sort_unstable();
    known.dedup();
    assert!(known.len() >= 18, "{known:?}");
    for name in known {
        assert!(
            readme.contains(&format!("`{name}`")),
            "the README does not list {name}"
        );
    }
}
