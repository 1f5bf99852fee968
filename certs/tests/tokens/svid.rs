//! JWT-SVIDs: what makes them more than a JWT.

use kith_certs::authority::jwt::Issuer;
use kith_certs::jwt::{Jwks, Jwt, JwtError, JwtSvid};
use serde_json::{Value, json};

use crate::{ALGORITHMS, issuer};

const OURS: &str = "example.org";

fn bundle(issuers: &[&Issuer]) -> Jwks {
    let mut keys: Vec<Value> = issuers.iter().map(|issuer| issuer.jwk()).collect();
    for key in &mut keys {
        key["use"] = json!("jwt-svid");
    }
    Jwks::parse_spiffe_bundle(json!({"keys": keys}).to_string().as_bytes()).unwrap()
}

fn claims(subject: &str) -> Value {
    json!({"sub": subject, "aud": ["orders"], "exp": 2_000_000_000})
}

fn verify(token: &str, domain: &str, keys: &Jwks) -> Result<JwtSvid, JwtError> {
    JwtSvid::verify(&Jwt::parse(token)?, domain, keys)
}

#[test]
fn every_algorithm_of_the_standard_and_no_other() {
    for name in ALGORITHMS {
        let issuer = issuer(name);
        let token = issuer.sign(&claims("spiffe://example.org/web")).unwrap();
        let verified = verify(&token, OURS, &bundle(&[&issuer]));
        if name == "EdDSA" {
            assert!(matches!(verified, Err(JwtError::Algorithm { .. })));
        } else {
            assert_eq!(verified.unwrap().id().as_str(), "spiffe://example.org/web");
        }
    }
}

#[test]
fn claims_and_header_keep_to_the_standard() {
    let issuer = issuer("ES256");
    let keys = bundle(&[&issuer]);
    let with = |change: Value| {
        let mut claims = claims("spiffe://example.org/web");
        let claims = claims.as_object_mut().unwrap();
        for (name, value) in change.as_object().unwrap() {
            if value.is_null() {
                claims.remove(name);
            } else {
                claims.insert(name.clone(), value.clone());
            }
        }
        verify(&issuer.sign(&json!(claims)).unwrap(), OURS, &keys)
    };
    for (change, part) in [
        (json!({"sub": null}), "no subject (JWT-SVID 3.1)"),
        (json!({"sub": "alice"}), "no SPIFFE ID (JWT-SVID 3.1)"),
        (
            json!({"sub": "spiffe://Example.org/web"}),
            "no SPIFFE ID (JWT-SVID 3.1)",
        ),
        (
            json!({"sub": "spiffe://example.org/a/../web"}),
            "no SPIFFE ID (JWT-SVID 3.1)",
        ),
        (
            json!({"sub": "spiffe://example.org"}),
            "not a workload (JWT-SVID 3.1)",
        ),
        (json!({"sub": "spiffe://other.org/web"}), "can't vouch for"),
        (json!({"aud": null}), "no audience (JWT-SVID 3.2)"),
        (json!({"aud": []}), "no audience (JWT-SVID 3.2)"),
        (json!({"exp": null}), "no end, `exp` (JWT-SVID 3.3)"),
    ] {
        let refused = with(change.clone()).unwrap_err().to_string();
        assert!(refused.contains(part), "{change}: {refused}");
    }
    // `iss` is nobody's business: neither does it help, nor does it harm.
    assert!(with(json!({"iss": "spiffe://other.org"})).is_ok());
    assert!(with(json!({"aud": "orders", "private": 1})).is_ok());

    let typ = |typ: &str| {
        let header = json!({"alg": "ES256", "kid": issuer.kid(), "typ": typ});
        let token = issuer.sign_with_header(&header, &claims("spiffe://example.org/web"));
        verify(&token.unwrap(), OURS, &keys)
    };
    assert!(typ("JWT").is_ok() && typ("JOSE").is_ok());
    for other in ["jwt", "at+jwt", "dpop+jwt", ""] {
        assert!(typ(other).unwrap_err().to_string().contains("JWT-SVID 2.3"));
    }
    let header = json!({"alg": "ES256"});
    let bare = issuer.sign_with_header(&header, &claims("spiffe://example.org/web"));
    assert!(
        verify(&bare.unwrap(), OURS, &keys).is_ok(),
        "kid and typ are optional"
    );
}

/// The property that keeps trust domains apart, whatever the token says and however keys are called.
#[test]
fn a_key_of_one_trust_domain_never_speaks_for_another() {
    let domains = ["example.org", "other.org", "example.org.evil.net"];
    for name in ALGORITHMS.into_iter().filter(|name| *name != "EdDSA") {
        let issuers: Vec<Issuer> = domains.iter().map(|_| issuer(name).with_kid("1")).collect();
        for (signer, issuer) in issuers.iter().enumerate() {
            for (claimed, domain) in domains.iter().enumerate() {
                for iss in domains {
                    let mut claims = claims(&format!("spiffe://{domain}/web"));
                    claims["iss"] = json!(format!("spiffe://{iss}"));
                    let token = issuer.sign(&claims).unwrap();
                    for (asked, bundle_of) in domains.iter().enumerate() {
                        let keys = bundle(&[&issuers[asked]]);
                        let verified = verify(&token, bundle_of, &keys).is_ok();
                        let proper = signer == claimed && claimed == asked;
                        assert_eq!(verified, proper, "{name} {signer} {claimed} {asked}");
                    }
                }
            }
        }
    }
}
