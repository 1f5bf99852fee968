//! Policies as Istio's users write them: each loads unchanged, or is refused by name with what to do instead.

use std::fmt::Write as _;
use std::path::Path;

use expect_test::expect;
use kith_control::yaml::load_str;

#[test]
fn policies_written_for_istio_load_unchanged_or_are_refused_by_name() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/istio");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut said = String::new();
    for file in files {
        let name = file.file_name().unwrap();
        match load_str(Path::new(name), &std::fs::read_to_string(&file).unwrap()) {
            Ok(loaded) => {
                let documents = loaded.files().next().unwrap();
                let counts = [
                    (
                        "AuthorizationPolicy",
                        documents.authorization_policies.len(),
                    ),
                    (
                        "RequestAuthentication",
                        documents.request_authentications.len(),
                    ),
                    ("PeerAuthentication", documents.peer_authentications.len()),
                ];
                write!(said, "{}:", name.display()).unwrap();
                for (kind, count) in counts.iter().filter(|(_, count)| *count > 0) {
                    write!(said, " {count} {kind}").unwrap();
                }
                said.push('\n');
            }
            Err(problems) => {
                for problem in problems {
                    writeln!(said, "{problem}").unwrap();
                }
            }
        }
    }
    expect![[r#"
        01-deny-all.yaml: 1 AuthorizationPolicy
        02-allow-all-in-root.yaml: 1 AuthorizationPolicy
        03-httpbin-sleep.yaml: 1 AuthorizationPolicy
        04-bookinfo.yaml: 3 AuthorizationPolicy
        05-deny-method.yaml: 1 AuthorizationPolicy
        06-deny-other-namespaces.yaml: 1 AuthorizationPolicy
        07-wildcard-paths.yaml: 1 AuthorizationPolicy
        08-path-templates.yaml: 1 AuthorizationPolicy
        09-tcp-mongodb.yaml: 1 AuthorizationPolicy
        10-tcp-echo-deny.yaml: 1 AuthorizationPolicy
        11-ingress-ip-blocks.yaml: 1 AuthorizationPolicy
        12-require-jwt.yaml: 1 AuthorizationPolicy 1 RequestAuthentication
        13-deny-without-jwt.yaml: 1 AuthorizationPolicy
        14-nested-claims.yaml: 1 AuthorizationPolicy
        15-audience-presenter.yaml: 1 AuthorizationPolicy
        16-jwt-locations.yaml: 1 RequestAuthentication
        17-jwt-inline-keys.yaml: 1 RequestAuthentication
        18-jwt-two-issuers.yaml: 1 RequestAuthentication
        19-dry-run.yaml: 2 AuthorizationPolicy
        20-audit.yaml: 1 AuthorizationPolicy
        21-peer-authentication.yaml: 3 PeerAuthentication
        22-exported-object.yaml: 1 AuthorizationPolicy
        23-exported-list.yaml: 1 AuthorizationPolicy 1 RequestAuthentication 1 PeerAuthentication
        24-api-list.yaml: 2 AuthorizationPolicy
        25-conditions.yaml: 1 AuthorizationPolicy
        26-trust-domain-migration.yaml: 1 AuthorizationPolicy
        27-service-account-and-trust-domain.yaml: 1 AuthorizationPolicy
        30-refused-custom.yaml:11: spec.provider: CUSTOM asks a service outside the mesh, which Kith never does: use ALLOW or DENY
        31-refused-experimental.yaml:9: spec.rules[0].when[0].key: `experimental.envoy.filters.network.mysql_proxy[productdb.catalog]` reads the state of an Envoy filter, which Kith does not have: decide by principal and port, or remove the policy
        32-refused-waypoint.yaml:7: spec.targetRefs: names a gateway or waypoint, which a mesh of sidecars does not have: use `selector` to pick workloads by their labels
        32-refused-waypoint.yaml:20: spec.targetRef: names a gateway or waypoint, which a mesh of sidecars does not have: use `selector` to pick workloads by their labels
        32-refused-waypoint.yaml:31: spec.targetRefs: names a gateway or waypoint, which a mesh of sidecars does not have: use `selector` to pick workloads by their labels
        33-refused-star-in-the-middle.yaml:11: spec.rules[0].to[0].operation.paths[0]: `/a/*/b` has a `*` in the wrong place: one may stand alone, first or last, and is never literal
        34-refused-deny-without-rules.yaml:7: spec.rules: a DENY without rules denies nothing; to deny everything, write one empty rule
        35-refused-other-kinds.yaml:4: apiVersion: `networking.istio.io/v1` is not known; known are `kith.dev/v1alpha1`, `security.istio.io/v1` and `security.istio.io/v1beta1`
        35-refused-other-kinds.yaml:7: apiVersion: `v1` is not known; known are `kith.dev/v1alpha1`, `security.istio.io/v1` and `security.istio.io/v1beta1`
        36-refused-keys.yaml:10: spec.jwtRules[0].jwksUri: either `jwks` or `jwksUri`, never both
        36-refused-keys.yaml:11: spec.jwtRules[1].issuer: `not-a-url` is not a URL: relative URL without a base; so its keys cannot be discovered: give `jwksUri` or `jwks`
        36-refused-keys.yaml:13: spec.jwtRules[2].jwks: has no key that can be used: key `shared` has the member `k` of a private or shared key; it is compromised, replace it
        36-refused-keys.yaml:15: spec.jwtRules[3].jwksUri: `file:///etc/passwd` is neither an https nor an http URL
        36-refused-keys.yaml:17: spec.jwtRules[4].jwksUri: has a user name or password in it: keys are public, and fetched without
        36-refused-keys.yaml:18: spec.jwtRules[5].issuer: required: the `iss` of the tokens; for JWT-SVIDs give `spiffeTrustDomain` instead
        36-refused-keys.yaml:21: spec.jwtRules[6].timeout: more than nothing and at most 10m
        36-refused-keys.yaml:23: spec.jwtRules[6].fromParams[0]: an empty string: remove it
        36-refused-keys.yaml:22: spec.jwtRules[6].fromHeaders[0].name: `x token` is not the name of a header
    "#]].assert_eq(&said);
}
