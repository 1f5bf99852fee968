//! Bearer tokens and the key sets that verify them.

use std::sync::OnceLock;

use kith_certs::authority::jwt::Issuer;
use kith_certs::jwt::{Algorithm, Jwks, Jwt};

struct Good {
    keys: Jwks,
    token: String,
}

fn good() -> &'static Good {
    static GOOD: OnceLock<Good> = OnceLock::new();
    GOOD.get_or_init(make)
}

fn make() -> Good {
    let issuer = Issuer::generate(Algorithm::Es256).unwrap_or_else(|error| panic!("{error}"));
    let claims =
        serde_json::json!({"iss": "https://issuer", "sub": "alice", "exp": 4_000_000_000_u64});
    Good {
        keys: Jwks::parse(issuer.jwks().as_bytes()).unwrap_or_else(|error| panic!("{error}")),
        token: issuer
            .sign(&claims)
            .unwrap_or_else(|error| panic!("{error}")),
    }
}

/// No token but the one that was signed verifies: neither arbitrary bytes nor the good one with bytes exchanged.
pub(crate) fn token(data: &[u8]) {
    let _ = Jwks::parse(data);
    let _ = Jwks::parse_spiffe_bundle(data);
    let good = good();
    if let Ok(text) = std::str::from_utf8(data) {
        check(good, text);
    }
    // Pairs of place and byte, on the good one.
    let mut changed = good.token.clone().into_bytes();
    for change in data.chunks_exact(3).take(8) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % changed.len();
        changed[at] = change[2];
    }
    if let Ok(text) = std::str::from_utf8(&changed) {
        check(good, text);
    }
}

fn check(good: &Good, text: &str) {
    let Ok(token) = Jwt::parse(text) else { return };
    let _ = (
        token.issuer(),
        token.subject(),
        token.exp(),
        token.nbf(),
        token.iat(),
        token.jti(),
    );
    let _ = (token.audiences().count(), token.certificate_thumbprint());
    if token.verify_signature(&good.keys).is_ok() {
        assert_eq!(text, good.token, "a token verifies that nobody signed");
    }
}

/// A token is gone from where it was found, and what is written down of a query has none.
pub(crate) fn locate(data: &[u8]) {
    #[cfg(fuzzing)]
    kith_proxy::fuzzing::locate(data);
    #[cfg(not(fuzzing))]
    let _ = data;
}
