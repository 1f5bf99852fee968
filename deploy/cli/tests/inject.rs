//! `kith inject` as people run it.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const SETTINGS: &str = "{image: proxy, captureImage: capture, trustDomain: example.org}";
const MANIFEST: &str = "\
kind: ConfigMap   # as it is
apiVersion: v1
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  template:
    spec:
      containers:
      - name: web
        image: web
";

/// Exit code, standard output and standard error of `kith inject` in a folder with the settings and a manifest.
fn inject(manifest: &str, arguments: &[&str], input: &str) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("settings.yaml", SETTINGS);
    write("app.yaml", manifest);
    let mut child = Command::new(Path::new(env!("CARGO_BIN_EXE_kith")))
        .args(["inject", "--settings", "settings.yaml"])
        .args(arguments)
        .current_dir(&folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // Nobody reads it when a file is given.
    _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn the_result_is_the_file_with_sidecars_and_is_stable() {
    let (code, once, told) = inject(MANIFEST, &["-f", "app.yaml"], "");
    assert_eq!((code, told.as_str()), (0, ""));
    let untouched = "kind: ConfigMap   # as it is\napiVersion: v1\n---\napiVersion: apps/v1\n";
    assert!(once.starts_with(untouched), "{once}");
    assert_eq!(once.matches("name: kith-proxy").count(), 1);
    let (code, twice, _) = inject("", &["-f", "-", "--check"], &once);
    assert_eq!((code, twice), (0, once));
}

#[test]
fn a_diff_shows_only_what_changes() {
    let (code, diff, _) = inject(MANIFEST, &["-f", "app.yaml", "--diff", "--check"], "");
    assert_eq!(code, 1);
    assert!(
        diff.starts_with(
            "--- app.yaml: Deployment shop/web\n+++ app.yaml: Deployment shop/web, injected\n@@ "
        ),
        "{diff}"
    );
    assert!(diff.contains("\n+      - name: kith-capture\n"));
    let removed = diff.lines().skip(2).filter(|line| line.starts_with('-'));
    assert_eq!(removed.count(), 0, "{diff}");
}

#[test]
fn several_files_become_one_stream_of_documents() {
    let (code, both, _) = inject(MANIFEST, &["-f", "app.yaml", "-f", "-"], "kind: Other");
    assert_eq!(code, 0);
    assert!(both.ends_with("\n---\nkind: Other"), "{both}");
}

#[test]
fn what_is_in_the_way_is_told_and_nothing_is_printed() {
    let manifest = MANIFEST.replace("    spec:\n", "    spec:\n      hostNetwork: true\n");
    let (code, out, told) = inject(&manifest, &["-f", "app.yaml"], "");
    assert_eq!((code, out.as_str()), (2, ""));
    let expected = "app.yaml:10: spec.template.spec.hostNetwork: this pod has its node's network";
    assert!(told.starts_with(expected), "{told}");
    let (code, _, told) = inject(MANIFEST, &["-f", "missing.yaml"], "");
    assert_eq!(code, 2);
    assert!(told.starts_with("missing.yaml: cannot be read"), "{told}");
}
