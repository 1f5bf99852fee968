//! Holds the shape of the code to what ARCHITECTURE.md says: who may depend on whom, which stage may
//! import which, how long a file may get.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kith_control::inject::Settings;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The `[dependencies]` of a package that are packages of this workspace, or `named`.
fn dependencies(package: &str) -> BTreeSet<String> {
    let manifest = fs::read_to_string(root().join(package).join("Cargo.toml")).unwrap();
    let mut inside = false;
    let mut found = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if inside
            && let Some(name) = line
                .split(['.', ' ', '='])
                .next()
                .filter(|name| !name.is_empty() && !name.starts_with('#'))
        {
            found.insert(name.to_owned());
        }
    }
    found
}

#[test]
fn packages_depend_one_way() {
    let allowed: [(&str, &[&str]); 6] = [
        ("certs", &[]),
        ("xds-client", &[]),
        ("proxy/policy", &[]),
        ("proxy", &["kith-certs", "kith-policy", "kith-xds-client"]),
        (
            "deploy/control-plane",
            &["kith-certs", "kith-policy", "kith-proxy", "kith-xds-client"],
        ),
        (
            "deploy/cli",
            &[
                "kith-certs",
                "kith-control",
                "kith-policy",
                "kith-proxy",
                "kith-xds-client",
            ],
        ),
    ];
    for (package, may) in allowed {
        let ours: BTreeSet<String> = dependencies(package)
            .into_iter()
            .filter(|name| name.starts_with("kith"))
            .collect();
        let may: BTreeSet<String> = may.iter().map(|name| (*name).to_owned()).collect();
        assert!(
            ours.is_subset(&may),
            "{package} depends on {:?}",
            ours.difference(&may).collect::<Vec<_>>()
        );
    }
}

#[test]
fn the_policy_engine_knows_no_io() {
    for forbidden in ["tokio", "hyper", "rustls", "prost", "tonic", "serde"] {
        assert!(
            !dependencies("proxy/policy").contains(forbidden),
            "kith-policy depends on {forbidden}"
        );
    }
    for file in rust_files(&root().join("proxy/policy/src")) {
        let text = fs::read_to_string(&file).unwrap();
        for forbidden in [
            "std::fs",
            "std::net::Tcp",
            "SystemTime",
            "Instant",
            "async fn",
            "regex::",
        ] {
            let code: String = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect::<Vec<_>>()
                .join("\n");
            assert!(
                !code.contains(forbidden),
                "{} uses {forbidden}",
                file.display()
            );
        }
    }
}

/// Modules of the proxy in the order of the pipeline: none may import one that stands later.
#[test]
fn stages_never_import_later_stages() {
    const STAGES: [&[&str]; 4] = [&["accept"], &["detect"], &["authenticate"], &["authorize"]];
    const LATER: [&str; 6] = ["forward", "inbound", "outbound", "worker", "app", "control"];
    for (position, stage) in STAGES.iter().enumerate() {
        for module in *stage {
            let text =
                fs::read_to_string(root().join("proxy/src").join(format!("{module}.rs"))).unwrap();
            let later = STAGES[position + 1..].iter().flat_map(|stage| stage.iter());
            for other in later.chain(LATER.iter()) {
                // Opening a connection is not a stage.
                let text = text.replace("crate::forward::connect", "");
                assert!(
                    !text.contains(&format!("crate::{other}::")),
                    "{module} imports {other}, which comes later"
                );
            }
        }
    }
}

#[test]
fn pure_modules_stay_pure() {
    for module in [
        "lease",
        "revocation",
        "snapshot",
        "correlation",
        "error",
        "addr",
    ] {
        let text =
            fs::read_to_string(root().join("proxy/src").join(format!("{module}.rs"))).unwrap();
        assert!(!text.contains("tokio::"), "{module} uses tokio");
    }
    for file in rust_files(&root().join("proxy/src/http1")) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains("tokio"), "{} uses tokio", file.display());
    }
}

#[test]
fn the_sidecar_carries_no_dev_authority() {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "-p",
            "kith-proxy",
            "-e",
            "normal",
            "-f",
            "{p} {f}",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    let tree = String::from_utf8(tree.stdout).unwrap();
    assert!(
        tree.contains("kith-certs"),
        "cargo tree printed nothing useful: {tree}"
    );
    assert!(
        !tree.contains("dev-authority") && !tree.contains("rcgen"),
        "the sidecar is built with the dev authority"
    );
}

#[test]
fn files_stay_short() {
    let mut long = Vec::new();
    for folder in [
        "certs/src",
        "xds-client/src",
        "proxy/src",
        "proxy/policy/src",
        "deploy/control-plane/src",
        "deploy/cli/src",
    ] {
        for file in rust_files(&root().join(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            if file.file_stem().is_some_and(|stem| stem == "tests") {
                continue;
            }
            let lines = text
                .lines()
                .take_while(|line| !line.starts_with("#[cfg(test)]"))
                .count();
            if lines > 420 {
                long.push(format!("{} has {lines} lines", file.display()));
            }
        }
    }
    assert!(
        long.is_empty(),
        "two names would tell more than one:\n{}",
        long.join("\n")
    );
}

#[test]
fn unsafe_stays_out() {
    for folder in [
        "certs/src",
        "xds-client/src",
        "proxy/src",
        "proxy/policy/src",
        "deploy",
    ] {
        for file in rust_files(&root().join(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            let code = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            assert!(
                !code
                    .into_iter()
                    .any(|line| line.contains("unsafe {") || line.contains("allow(unsafe_code)")),
                "{}",
                file.display()
            );
        }
    }
}

/// What stands between braces or in `by (…)` and `on (…)` of a query, up to what it is compared with.
fn labels_of(query: &str) -> BTreeSet<String> {
    let mut labels = BTreeSet::new();
    for (open, close) in [("{", '}'), (" by (", ')'), (" on (", ')')] {
        for part in query.split(open).skip(1) {
            let (inside, _) = part.split_once(close).unwrap();
            // A comma inside of quotes would be none of ours.
            let names = inside
                .split(',')
                .filter_map(|it| it.split(['=', '!']).next());
            labels.extend(names.map(|name| name.trim().to_owned()));
        }
    }
    labels.remove("");
    labels
}

#[test]
fn the_dashboard_asks_for_metrics_and_labels_that_there_are() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let word = |it: char| it.is_ascii_lowercase() || it == '_';
    let code = read("proxy/src/telemetry/metrics/families.rs");
    let control = ["health", "operate"]
        .map(|file| read(&format!("deploy/control-plane/src/kubernetes/{file}.rs")))
        .concat();
    let metrics: BTreeSet<&str> = code
        .split('"')
        .filter(|text| text.starts_with("kith_"))
        .chain(
            control
                .split(|it| !word(it))
                .filter(|text| text.starts_with("kith_control_")),
        )
        .collect();
    let mut known: BTreeSet<&str> = code
        .split("\" =>")
        .filter_map(|text| text.rsplit('"').next())
        .collect();
    // In a format string: {{kind=\"{kind}\"}}.
    let labels = control.split("=\\\"");
    known.extend(labels.filter_map(|text| text.rsplit(|it| !word(it)).next()));
    // What whoever scrapes adds, and the bucket of a histogram.
    known.extend(["namespace", "pod", "le"]);

    let dashboard: serde_json::Value =
        serde_json::from_str(&read("deploy/dashboards/kith.json")).unwrap();
    let mut queries = Vec::new();
    let mut inside = vec![&dashboard];
    while let Some(value) = inside.pop() {
        inside.extend(value.as_array().into_iter().flatten());
        for (key, value) in value.as_object().into_iter().flatten() {
            match value.as_str() {
                Some(text) if key == "expr" || key == "query" => queries.push(text),
                _ => inside.push(value),
            }
        }
    }
    let mut shown = BTreeSet::new();
    for query in queries.iter().filter(|query| query.contains("kith_")) {
        for name in query
            .split(|it| !word(it))
            .filter(|word| word.starts_with("kith_"))
        {
            let name = ["_bucket", "_count", "_sum"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(name);
            assert!(metrics.contains(name), "{name} is no metric: {query}");
            shown.insert(name);
        }
        let unknown: Vec<String> = labels_of(query)
            .into_iter()
            .filter(|label| !known.contains(label.as_str()))
            .collect();
        assert!(unknown.is_empty(), "no such labels {unknown:?}: {query}");
    }
    assert_eq!(
        shown,
        metrics,
        "every metric is for somebody to look at: {:?}",
        metrics.difference(&shown).collect::<Vec<_>>()
    );
}

/// What the injector says there is, when it is given a default for something else.
fn annotations() -> BTreeSet<String> {
    let settings = "{image: a, captureImage: b, trustDomain: example.org, defaults: {zzz: x}}";
    let problems = Settings::parse(Path::new("it"), settings).unwrap_err();
    let (_, names) = problems[0].message.split_once("kith.dev/: ").unwrap();
    names.split(", ").map(str::to_owned).collect()
}

#[test]
fn the_injector_takes_the_settings_that_the_manifests_have() {
    let manifests = fs::read_to_string(root().join("deploy/manifests/kith.yaml")).unwrap();
    let (_, settings) = manifests.split_once("  injection.yaml: |\n").unwrap();
    let settings: Vec<&str> = settings
        .lines()
        .map_while(|line| line.strip_prefix("    "))
        .collect();
    let settings = Settings::parse(Path::new("injection.yaml"), &settings.join("\n")).unwrap();
    assert_eq!(
        (
            settings.version.as_str(),
            settings.control_plane.address().as_str(),
            settings.control_plane.spiffe_id("example.org").as_str()
        ),
        (
            env!("CARGO_PKG_VERSION"),
            "https://kith-control.kith-system.svc:15010",
            "spiffe://example.org/ns/kith-system/sa/kith-control"
        )
    );
}

#[test]
fn the_chart_and_its_readme_know_every_annotation_and_no_other() {
    let schema = fs::read_to_string(root().join("deploy/chart/values.schema.json")).unwrap();
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    let defaults = &schema["properties"]["injection"]["properties"]["defaults"];
    let of_schema: BTreeSet<String> = defaults["properties"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    assert_eq!(of_schema, annotations());
    assert_eq!(defaults["additionalProperties"], false);

    let readme = fs::read_to_string(root().join("deploy/README.md")).unwrap();
    let (_, table) = readme.split_once("| annotation |").unwrap();
    let rows = table
        .lines()
        .skip(2)
        .map_while(|row| row.strip_prefix("| "));
    let of_readme: BTreeSet<String> = rows
        .filter_map(|row| row.split('`').nth(1))
        .map(str::to_owned)
        .collect();
    assert_eq!(of_readme, annotations());
}
