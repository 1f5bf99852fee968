//! `kith policy`: the real program, on the project's own suite and on what people get to see.

#![allow(clippy::unwrap_used, clippy::needless_pass_by_value)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use expect_test::{Expect, expect};
use serde_json::Value;

fn suite() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/policy")
}

fn kith(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kith"))
        .arg("policy")
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

/// Exit code, standard output and standard error, as a person sees them.
fn shown(output: &Output) -> String {
    let mut text = format!("exit {}\n", output.status.code().unwrap());
    text.push_str(str::from_utf8(&output.stdout).unwrap());
    for line in str::from_utf8(&output.stderr).unwrap().lines() {
        text.push_str(&format!("! {line}\n"));
    }
    text
}

/// In the folder of this test's own files.
fn check(arguments: &[&str], expected: Expect) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policy");
    expected.assert_eq(&shown(&kith(&folder, arguments)));
}

fn files(folder: &Path) -> Vec<String> {
    let mut files: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    files.sort();
    files
}

#[test]
fn the_suite_passes_with_at_least_400_decisions() {
    let files = files(&suite());
    let mut arguments = vec!["test", "--json"];
    arguments.extend(files.iter().map(String::as_str));
    let output = kith(&suite(), &arguments);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let tests = report["tests"].as_array().unwrap();
    let failed: Vec<_> = tests
        .iter()
        .filter(|test| test["passed"] == false)
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(output.status.code(), Some(0));
    assert!(tests.len() >= 400, "{} decisions", tests.len());
    assert_eq!(report["passed"], tests.len());
    for allowed in ["allow", "deny"] {
        let of = tests.iter().filter(|it| it["got"]["decision"] == allowed);
        assert!(of.count() >= 100, "hardly ever {allowed}");
    }
}

/// A suite that passes whatever is decided would prove nothing.
#[test]
fn the_suite_fails_when_its_expectations_are_turned_round() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("files")).unwrap();
    for file in files(&suite().join("files")) {
        let from = suite().join("files").join(&file);
        fs::copy(from, folder.path().join("files").join(&file)).unwrap();
    }
    let files = files(&suite());
    for file in &files {
        let text = fs::read_to_string(suite().join(file)).unwrap();
        let turned = text
            .replace("expect: {decision: allow", "expect: {decision: other")
            .replace("expect: {decision: deny", "expect: {decision: allow")
            .replace("expect: {decision: other", "expect: {decision: deny");
        fs::write(folder.path().join(file), turned).unwrap();
    }
    let mut arguments = vec!["test", "--json"];
    arguments.extend(files.iter().map(String::as_str));
    let output = kith(folder.path(), &arguments);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(report["passed"], 0);
}

/// Those that decide by name in the suite, those that are refused on load by file.
#[test]
fn every_stricter_rule_has_its_tests() {
    let text = fs::read_to_string(suite().join("stricter-rules.yaml")).unwrap();
    let refused = files(&suite().join("refused"));
    for rule in 1..=10 {
        let by_name = text.contains(&format!("- name: \"rule {rule}: "));
        let by_file = refused
            .iter()
            .any(|file| file.starts_with(&format!("rule-{rule:02}-")));
        assert!(by_name || by_file, "rule {rule}");
    }
}

/// Every file says in its first lines what is wrong with it, as it is printed: `LINE: field: message`.
#[test]
fn refused_files_are_refused_with_their_message() {
    let files = files(&suite().join("refused"));
    assert!(files.len() >= 40);
    for file in files {
        let file = format!("refused/{file}");
        let text = fs::read_to_string(suite().join(&file)).unwrap();
        let expected: String = text
            .lines()
            .map_while(|line| line.strip_prefix("# "))
            .map(|line| format!("! {file}:{line}\n"))
            .collect();
        let output = kith(&suite(), &["test", &file]);
        assert_eq!(shown(&output), format!("exit 2\n{expected}"));
    }
}

#[test]
fn nothing_runs_when_one_file_is_wrong() {
    let output = kith(
        &suite(),
        &["test", "--json", "hosts.yaml", "refused/empty-from.yaml"],
    );
    assert_eq!(output.status.code(), Some(2));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["problems"][0]["field"], "spec.rules[0].from");
    assert_eq!(report.get("tests"), None);
}

#[test]
fn every_reason_of_a_policy_decision_is_in_the_suite() {
    let mut reasons = BTreeSet::new();
    for file in files(&suite()) {
        let text = fs::read_to_string(suite().join(file)).unwrap();
        let found = text.split("reason: ").skip(1);
        reasons.extend(found.map(|rest| rest.split([',', '}']).next().unwrap().to_owned()));
    }
    expect![[r#"
        allowed-by-default
        allowed-by-rule
        denied-by-default
        denied-by-rule
        no-allow-policy-matches
        path-refused
        peer-unauthenticated
        request-malformed
        token-missing
    "#]]
    .assert_eq(&reasons.into_iter().map(|it| it + "\n").collect::<String>());
}

#[test]
fn a_failed_test_says_what_was_expected_what_came_and_why() {
    check(
        &["test", "shop.yaml"],
        expect![[r#"
            exit 1
            shop.yaml:41 batch may write: expected allow by shop/orders, got deny (no-allow-policy-matches) because no ALLOW policy matches: shop/orders comes closest, and fails at to.methods: it wants GET, HEAD, and there is POST
            shop.yaml:45 batch is not watched: expected allow, shadow [], would be allow, got allow by shop/orders rule 0 (allowed-by-rule), shadow [shop/next deny, shop/watch audit], would be deny because rule 0 of the ALLOW policy shop/orders matches
            shop.yaml:49 the console is open: expected allow (allowed-by-rule), got deny by shop/no-admin rule 0 (denied-by-rule) because rule 0 of the DENY policy shop/no-admin matches
            shop.yaml:53 anybody may read: expected allow, got deny (peer-unauthenticated) because a policy uses identity on port 8080, and there plaintext is denied (stricter rule 3)
            shop.yaml:61 edge without a token: expected deny (no-allow-policy-matches), got deny (token-missing) because no ALLOW policy matches: shop/orders comes closest, and fails at from.requestPrincipals: the request carries no token
            shop.yaml:68 opaque bytes elsewhere: expected allow, got deny (no-allow-policy-matches) because no ALLOW policy matches: shop/orders comes closest, and fails at to.paths: there is no HTTP request on opaque TCP
            shop.yaml:71 a trick: expected deny (denied-by-rule), got deny (path-refused) because the path has an encoded slash or backslash (`%2F`, `%5C`), which this port does not accept
            3 passed, 7 failed
            ! warning: shop.yaml:29: AuthorizationPolicy shop/next: spec.rules[0]: port 5432 of shop/workload is opaque: hosts, methods, paths, headers and tokens do not exist there, and the rule holds by its other parts alone; name the HTTP ports in `to[].operation.ports` if that is not meant
        "#]],
    );
}

#[test]
fn results_as_json() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policy");
    let output = kith(&folder, &["test", "--json", "shop.yaml"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    expect![[r#"
        3
        {
          "because": "rule 0 of the ALLOW policy shop/orders matches",
          "expected": {
            "decision": "allow",
            "shadow": [],
            "wouldBe": "allow"
          },
          "file": "shop.yaml",
          "got": {
            "decision": "allow",
            "policy": "shop/orders",
            "reason": "allowed-by-rule",
            "rule": 0,
            "shadow": [
              {
                "decision": "deny",
                "policy": "shop/next"
              },
              {
                "decision": "audit",
                "policy": "shop/watch"
              }
            ],
            "wouldBe": "deny"
          },
          "line": 45,
          "name": "batch is not watched",
          "passed": false
        }
        [
          {
            "code": "wider-on-opaque-port",
            "field": "spec.rules[0]",
            "file": "shop.yaml",
            "line": 29,
            "message": "port 5432 of shop/workload is opaque: hosts, methods, paths, headers and tokens do not exist there, and the rule holds by its other parts alone; name the HTTP ports in `to[].operation.ports` if that is not meant",
            "object": "AuthorizationPolicy shop/next"
          }
        ]
    "#]].assert_eq(&format!(
        "{:#}\n{:#}\n{:#}\n",
        report["passed"], report["tests"][2], report["warnings"]
    ));
}

#[test]
fn an_explanation_shows_every_clause() {
    check(
        &["explain", "shop.yaml", "--test", "batch is not watched"],
        expect![[r#"
            exit 0
            peer         spiffe://example.org/ns/batch/sa/nightly
            source       192.0.2.1
            destination  192.0.2.2:8080, mTLS permissive
            request      HEAD /orders/7 of localhost
            token        none

            DENY shop/no-admin does not match
              rule 0: no match
                yes  to[0].ports  wants 8080               has 8080
                no   to[0].paths  wants /admin/* | /admin  has /orders/7

            ALLOW shop/orders matches
              rule 0: matches
                no   from[0].principals     wants cluster.local/ns/shop/sa/web             has spiffe://example.org/ns/batch/sa/nightly
                yes  from[1].notPrincipals  wants none of cluster.local/ns/batch/sa/guest  has spiffe://example.org/ns/batch/sa/nightly
                yes  from[1].namespaces     wants batch                                    has batch
                yes  to[0].paths            wants /orders/{*}                              has /orders/7
                yes  to[0].methods          wants GET | HEAD                               has HEAD
              rule 1: no match
                no  from[0].requestPrincipals         wants https://issuer.example/*          the request carries no token
                no  when[request.auth.claims[group]]  wants staff                             the request carries no token
                no  when[cel]                         wants request.headers["x-step"] == "2"  the expression has no value: no such key: "x-step"

            AUDIT shop/watch matches
              rule 0: matches
                yes  from[0].namespaces  wants batch  has batch

            DENY (dry-run) shop/next matches
              rule 0: matches
                yes  to[0].methods  wants HEAD  has HEAD

            Decision: allow, allowed-by-rule
              Because rule 0 of the ALLOW policy shop/orders matches.
              Nothing to do; the record names the ALLOW policy and rule that matched.
              Shadow: shop/next says deny by rule 0.
              Shadow: shop/watch says audit by rule 0.
              With the dry-run policies in force it would be: deny.
        "#]],
    );
}

#[test]
fn flags_replace_what_the_test_says() {
    check(
        &[
            "explain",
            "shop.yaml",
            "--test",
            "edge without a token",
            "--path",
            "/x/../orders",
            "--header",
            "x-step=2",
            "--header",
            "x-step=3",
            "--jwt",
            r#"{"iss": "https://issuer.example", "sub": "ann", "claims": {"group": 7}}"#,
        ],
        expect![[r#"
            exit 0
            peer         spiffe://example.org/ns/gateway/sa/edge
            source       192.0.2.1
            destination  192.0.2.2:8080, mTLS permissive
            request      DELETE /x/../orders of localhost
            path         /orders, as policies see it
            token        https://issuer.example/ann

            DENY shop/no-admin does not match
              rule 0: no match
                yes  to[0].ports  wants 8080               has 8080
                no   to[0].paths  wants /admin/* | /admin  has /orders

            ALLOW shop/orders does not match
              rule 0: no match
                no   from[0].principals     wants cluster.local/ns/shop/sa/web             has spiffe://example.org/ns/gateway/sa/edge
                yes  from[1].notPrincipals  wants none of cluster.local/ns/batch/sa/guest  has spiffe://example.org/ns/gateway/sa/edge
                no   from[1].namespaces     wants batch                                    has gateway
                no   to[0].paths            wants /orders/{*}                              has /orders
                no   to[0].methods          wants GET | HEAD                               has DELETE
              rule 1: no match
                yes  from[0].requestPrincipals         wants https://issuer.example/*          has https://issuer.example/ann
                no   when[request.auth.claims[group]]  wants staff                             has 7: the claim is neither a string nor a list of strings
                no   when[cel]                         wants request.headers["x-step"] == "2"  the expression has no value: the header "x-step" is sent more than once, so it has no single value

            AUDIT shop/watch does not match
              rule 0: no match
                no  from[0].namespaces  wants batch  has gateway

            DENY (dry-run) shop/next does not match
              rule 0: no match
                no  to[0].methods  wants HEAD  has DELETE

            Decision: deny, no-allow-policy-matches
              Because no ALLOW policy matches: shop/orders comes closest, and fails at when[request.auth.claims[group]]: the claim is neither a string nor a list of strings.
              Look at the nearest policy and the clause that failed in the record, and add a rule that allows this call if it should pass.
              With the dry-run policies in force it would be: deny.
        "#]],
    );
}

#[test]
fn an_explanation_of_opaque_bytes() {
    check(
        &[
            "explain",
            "shop.yaml",
            "--tcp",
            "--peer",
            "spiffe://example.org/ns/shop/sa/web",
            "--destination",
            "10.0.0.2:5432",
        ],
        expect![[r#"
            exit 0
            peer         spiffe://example.org/ns/shop/sa/web
            source       192.0.2.1
            destination  10.0.0.2:5432, mTLS permissive
            carries      opaque TCP

            DENY shop/no-admin does not match
              rule 0: no match
                no   to[0].ports  wants 8080               has 5432
                yes  to[0].paths  wants /admin/* | /admin  there is no HTTP request on opaque TCP

            ALLOW shop/orders does not match
              rule 0: no match: never on opaque TCP, for it uses HTTP attributes
                yes  from[0].principals     wants cluster.local/ns/shop/sa/web             has spiffe://example.org/ns/shop/sa/web
                yes  from[1].notPrincipals  wants none of cluster.local/ns/batch/sa/guest  has spiffe://example.org/ns/shop/sa/web
                no   from[1].namespaces     wants batch                                    has shop
                no   to[0].paths            wants /orders/{*}                              there is no HTTP request on opaque TCP
                no   to[0].methods          wants GET | HEAD                               there is no HTTP request on opaque TCP
              rule 1: no match: never on opaque TCP, for it uses HTTP attributes
                no  from[0].requestPrincipals         wants https://issuer.example/*          there is no HTTP request on opaque TCP
                no  when[request.auth.claims[group]]  wants staff                             there is no HTTP request on opaque TCP
                no  when[cel]                         wants request.headers["x-step"] == "2"  there is no HTTP request on opaque TCP

            AUDIT shop/watch does not match
              rule 0: no match
                no  from[0].namespaces  wants batch  has shop

            DENY (dry-run) shop/next matches
              rule 0: matches
                yes  to[0].methods  wants HEAD  there is no HTTP request on opaque TCP

            Decision: deny, no-allow-policy-matches
              Because no ALLOW policy matches: shop/orders comes closest, and fails at to.paths: there is no HTTP request on opaque TCP.
              Look at the nearest policy and the clause that failed in the record, and add a rule that allows this call if it should pass.
              Shadow: shop/next says deny by rule 0.
              With the dry-run policies in force it would be: deny.
        "#]],
    );
}

#[test]
fn an_explanation_of_what_is_refused_before_any_policy() {
    check(
        &["explain", "shop.yaml", "--path", "/../etc/passwd"],
        expect![[r#"
            exit 0
            peer         none: plaintext
            source       192.0.2.1
            destination  192.0.2.2:8080, mTLS permissive
            request      GET /../etc/passwd of localhost
            token        none

            Decision: deny, path-refused
              Because the path leads above the root with `..`.
              The path cannot be normalised safely; send a plain path, or configure encoded slashes for the port.
        "#]],
    );
}

#[test]
fn an_explanation_from_a_folder() {
    check(
        &[
            "explain",
            "mesh",
            "--workload",
            "shop/orders-1",
            "--peer",
            "spiffe://partner.example/ns/shop/sa/web",
            "--destination",
            "10.0.0.2:9090",
            "--header",
            "x-forwarded-for=198.51.100.7",
        ],
        expect![[r#"
            exit 0
            peer         spiffe://partner.example/ns/shop/sa/web
            source       192.0.2.1
            destination  10.0.0.2:9090, mTLS strict
            request      GET / of localhost
            token        none
            remote       198.51.100.7, by x-forwarded-for

            DENY shop/no-admin does not match
              rule 0: no match
                no  to[0].paths  wants /admin*  has /

            ALLOW shop/orders matches
              rule 0: no match
                no  from[0].principals  wants cluster.local/ns/shop/sa/web  has spiffe://partner.example/ns/shop/sa/web
                no  to[0].ports         wants 8080                          has 9090
              rule 1: no match
                no  to[0].paths  wants /admin/console  has /
              rule 2: matches
                yes  from[0].principals      wants partner.example/ns/shop/sa/web  has spiffe://partner.example/ns/shop/sa/web
                yes  from[0].remoteIpBlocks  wants 198.51.100.0/24                 has 198.51.100.7

            Decision: allow, allowed-by-rule
              Because rule 2 of the ALLOW policy shop/orders matches.
              Nothing to do; the record names the ALLOW policy and rule that matched.
        "#]],
    );
}

#[test]
fn a_token_that_the_sidecar_would_not_verify_decides_nothing() {
    let explain = |workload, issuer: &str, expected| {
        let jwt = format!(r#"{{"iss": "{issuer}", "sub": "ann"}}"#);
        check(
            &["explain", "tokens", "--workload", workload, "--jwt", &jwt],
            expected,
        );
    };
    explain(
        "shop/orders-1",
        "https://issuer.example",
        expect![[r#"
        exit 0
        peer         none: plaintext
        source       192.0.2.1
        destination  10.0.0.2:8080, mTLS permissive
        request      GET / of localhost
        token        https://issuer.example/ann

        ALLOW shop/people matches
          rule 0: matches
            yes  from[0].requestPrincipals  wants *  has https://issuer.example/ann

        Decision: allow, allowed-by-rule
          Because rule 0 of the ALLOW policy shop/people matches.
          Nothing to do; the record names the ALLOW policy and rule that matched.
    "#]],
    );
    explain(
        "shop/orders-1",
        "https://other.example",
        expect![[r#"
        exit 0
        peer         none: plaintext
        source       192.0.2.1
        destination  10.0.0.2:8080, mTLS permissive
        request      GET / of localhost
        token        https://other.example/ann, not verified: no RequestAuthentication for this workload is about the issuer `https://other.example`, only about https://issuer.example, so it is refused

        Decision: deny, token-untrusted
          Because no RequestAuthentication for this workload is about the issuer `https://other.example`, only about https://issuer.example.
          The token's issuer, signature, place, `nbf` or `iat` is not accepted; compare it with the RequestAuthentication and its keys, and check the clocks.
          Without the token, or with it where no rule looks, it would be: deny, token-missing.
    "#]],
    );
    explain(
        "shop/web-1",
        "https://issuer.example",
        expect![[r#"
        exit 0
        peer         none: plaintext
        source       192.0.2.1
        destination  10.0.0.3:8080, mTLS permissive
        request      GET / of localhost
        token        https://issuer.example/ann, not verified: no RequestAuthentication is for this workload, so it is not looked at, and the answer is the one without a token

        ALLOW shop/people does not match
          rule 0: no match
            no  from[0].requestPrincipals  wants *  the request carries no token

        Decision: deny, token-missing
          Because no ALLOW policy matches: shop/people comes closest, and fails at from.requestPrincipals: the request carries no token.
          No token was verified; send one in the header, parameter or cookie that the RequestAuthentication names, and check that one is for this workload.
    "#]],
    );
}

#[test]
fn an_explanation_as_json() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policy");
    let peer = "spiffe://example.org/ns/shop/sa/web";
    let of_orders = ["explain", "mesh", "--workload", "shop/orders-1"];
    let output = kith(
        &folder,
        &[&of_orders[..], &["--peer", peer, "--json"]].concat(),
    );
    let mut explained: Value = serde_json::from_slice(&output.stdout).unwrap();
    // It changes with every field that the wire gets.
    let revision = explained.as_object_mut().unwrap().remove("revision");
    assert!(revision.is_some());
    expect![[r#"
        {
          "because": "rule 0 of the ALLOW policy shop/orders matches",
          "decision": "allow",
          "nearest": null,
          "next_step": "Nothing to do; the record names the ALLOW policy and rule that matched.",
          "path": "/",
          "policies": [
            {
              "action": "DENY",
              "dry_run": false,
              "matches": false,
              "policy": "shop/no-admin",
              "rules": [
                {
                  "from": [],
                  "matches": false,
                  "out_of_place": false,
                  "to": [
                    [
                      {
                        "actual": "/",
                        "clause": "to.paths",
                        "holds": false,
                        "negative": false,
                        "wanted": [
                          "/admin*"
                        ],
                        "why": null
                      }
                    ]
                  ],
                  "when": []
                }
              ]
            },
            {
              "action": "ALLOW",
              "dry_run": false,
              "matches": true,
              "policy": "shop/orders",
              "rules": [
                {
                  "from": [
                    [
                      {
                        "actual": "spiffe://example.org/ns/shop/sa/web",
                        "clause": "from.principals",
                        "holds": true,
                        "negative": false,
                        "wanted": [
                          "cluster.local/ns/shop/sa/web"
                        ],
                        "why": null
                      }
                    ]
                  ],
                  "matches": true,
                  "out_of_place": false,
                  "to": [
                    [
                      {
                        "actual": "8080",
                        "clause": "to.ports",
                        "holds": true,
                        "negative": false,
                        "wanted": [
                          "8080"
                        ],
                        "why": null
                      }
                    ]
                  ],
                  "when": []
                },
                {
                  "from": [],
                  "matches": false,
                  "out_of_place": false,
                  "to": [
                    [
                      {
                        "actual": "/",
                        "clause": "to.paths",
                        "holds": false,
                        "negative": false,
                        "wanted": [
                          "/admin/console"
                        ],
                        "why": null
                      }
                    ]
                  ],
                  "when": []
                },
                {
                  "from": [
                    [
                      {
                        "actual": "spiffe://example.org/ns/shop/sa/web",
                        "clause": "from.principals",
                        "holds": false,
                        "negative": false,
                        "wanted": [
                          "partner.example/ns/shop/sa/web"
                        ],
                        "why": null
                      },
                      {
                        "actual": "192.0.2.1",
                        "clause": "from.remoteIpBlocks",
                        "holds": false,
                        "negative": false,
                        "wanted": [
                          "198.51.100.0/24"
                        ],
                        "why": null
                      }
                    ]
                  ],
                  "matches": false,
                  "out_of_place": false,
                  "to": [],
                  "when": []
                }
              ]
            }
          ],
          "policy": "shop/orders",
          "reason": "allowed-by-rule",
          "remote": "192.0.2.1",
          "rule": 0,
          "shadow": [],
          "would_be": null
        }
    "#]]
    .assert_eq(&format!("{explained:#}\n"));
}

#[test]
fn what_cannot_be_explained_is_told_with_what_to_do() {
    let mut text = String::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policy");
    for arguments in [
        ["explain", "mesh", "--sni", "x"],
        ["explain", "mesh", "--workload", "shop/web"],
        ["explain", "shop.yaml", "--test", "nope"],
        ["explain", "shop.yaml", "--peer", "web"],
        ["explain", "shop.yaml", "--header", "web"],
        ["explain", "shop.yaml", "--jwt", "web"],
        ["explain", "nowhere.yaml", "--host", "x"],
    ] {
        text.push_str(&shown(&kith(&folder, &arguments)));
    }
    expect![[r#"
        exit 2
        ! mesh: is a folder: say with --workload who is called
        exit 2
        ! mesh: no workload `shop/web` with a sidecar; there are shop/orders-1
        exit 2
        ! shop.yaml: has no test `nope`
        exit 2
        ! shop.yaml: --peer: `web`: a SPIFFE ID starts with `spiffe://`
        exit 2
        ! shop.yaml: --header: `web` is not NAME=VALUE
        exit 2
        ! shop.yaml: --jwt: expected value at line 1 column 1
        exit 2
        ! nowhere.yaml: cannot be read: No such file or directory (os error 2)
    "#]]
    .assert_eq(&text);
}

#[test]
fn a_folder_is_checked() {
    check(
        &["check", "mesh"],
        expect![[r#"
        exit 0
        mesh/policies.yaml:7: AuthorizationPolicy shop/no-admin: spec.rules[0]: port 5432 of shop/orders-1 is opaque: hosts, methods, paths, headers and tokens do not exist there, and the rule holds by its other parts alone; name the HTTP ports in `to[].operation.ports` if that is not meant
        mesh/policies.yaml:17: AuthorizationPolicy shop/orders: spec.rules[1]: whatever this allows, rule 0 of the DENY policy `shop/no-admin` (mesh/policies.yaml:1) denies
        mesh/policies.yaml:18: AuthorizationPolicy shop/orders: spec.rules[2].from[0].source.principals: `partner.example/ns/shop/sa/web` is in the trust domain `partner.example`, which nobody here is known to be in: known are example.org; if it is federated, this is as meant
        mesh/policies.yaml:24: AuthorizationPolicy shop/lost: spec.selector.matchLabels: no workload in namespace `shop` has these labels: this has no effect
        4 policies, 1 workload, 4 warnings
    "#]],
    );
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policy");
    let strict = kith(&folder, &["check", "--strict", "mesh"]);
    assert_eq!(strict.status.code(), Some(1));
    let json = kith(&folder, &["check", "--json", "mesh"]);
    assert_eq!(json.status.code(), Some(0));
    let report: Value = serde_json::from_slice(&json.stdout).unwrap();
    expect![[r#"
        {
          "authorization_policies": 3,
          "peer_authentications": 1,
          "request_authentications": 0,
          "revocations": 0,
          "services": 0,
          "workloads": 1
        }
        {
          "code": "wider-on-opaque-port",
          "field": "spec.rules[0]",
          "file": "mesh/policies.yaml",
          "line": 7,
          "message": "port 5432 of shop/orders-1 is opaque: hosts, methods, paths, headers and tokens do not exist there, and the rule holds by its other parts alone; name the HTTP ports in `to[].operation.ports` if that is not meant",
          "object": "AuthorizationPolicy shop/no-admin"
        }
    "#]].assert_eq(&format!("{:#}\n{:#}\n", report["counts"], report["warnings"][0]));
}

#[test]
fn a_folder_that_cannot_be_served_is_refused() {
    check(
        &["check", "nowhere"],
        expect![[r#"
        exit 2
        ! nowhere: cannot be read: No such file or directory (os error 2)
    "#]],
    );
    let refused = shown(&kith(&suite(), &["check", "refused"]));
    assert!(refused.starts_with("exit 2\n! refused/"), "{refused}");
}
