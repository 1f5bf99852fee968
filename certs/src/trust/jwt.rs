//! The JWT bundles of one update: which of them can be used.

use std::error::Error as _;
use std::sync::Arc;

use spiffe::JwtBundle;

use super::{JwtBundles, RefusedBundle};
use crate::TrustDomain;
use crate::workload_api::proto::JwtBundlesResponse;

/// SPIFFE_Workload_API 6.2.2. A bad bundle is left out whole and named; it harms no other. What is in `held` byte
/// for byte was parsed before.
pub(crate) fn collect(
    update: &JwtBundlesResponse,
    held: &JwtBundles,
) -> (JwtBundles, Vec<RefusedBundle>) {
    let mut bundles = JwtBundles::new();
    let mut refused = Vec::new();
    for (id, jwks) in &update.bundles {
        match parse(id, jwks, held) {
            Ok((domain, jwks)) => {
                bundles.insert(domain, jwks);
            }
            Err(why) => refused.push(RefusedBundle {
                trust_domain: id.clone(),
                why,
            }),
        }
    }
    (bundles, refused)
}

fn parse(id: &str, jwks: &[u8], held: &JwtBundles) -> Result<(TrustDomain, Arc<[u8]>), String> {
    let domain = TrustDomain::from_id(id).map_err(|fault| format!("its name {fault}"))?;
    match held.get(&domain) {
        Some(same) if **same == *jwks => return Ok((domain, Arc::clone(same))),
        _ => {}
    }
    // An empty set of keys is a bundle, and means that nobody's token is good; no bytes at all are none.
    if jwks.is_empty() {
        return Err("it is empty".to_owned());
    }
    match JwtBundle::from_jwt_authorities(domain.as_spiffe().clone(), jwks) {
        Ok(_) => Ok((domain, jwks.into())),
        Err(why) => Err(match why.source() {
            Some(cause) => format!("{why}: {cause}"),
            None => why.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const GOOD: &str = r#"{"keys":[{"kty":"EC","kid":"a","crv":"P-256","x":"x","y":"y"}]}"#;
    const ID: &str = "spiffe://example.org";

    fn update<'a>(bundles: impl IntoIterator<Item = (&'a str, &'a str)>) -> JwtBundlesResponse {
        JwtBundlesResponse {
            bundles: BTreeMap::from_iter(
                bundles
                    .into_iter()
                    .map(|(id, jwks)| (id.to_owned(), jwks.as_bytes().to_vec())),
            ),
        }
    }

    /// Beside a good one, a bundle `jwks` named `id` is refused for this reason and the good one kept.
    fn check(id: &str, jwks: &str, why: &str) {
        let update = update([("spiffe://good.example", GOOD), (id, jwks)]);
        let (bundles, refused) = collect(&update, &JwtBundles::new());
        assert_eq!(bundles.len(), 1, "{id} {jwks}");
        assert_eq!(&*bundles["good.example"], GOOD.as_bytes());
        assert_eq!((refused.len(), &*refused[0].trust_domain), (1, id));
        assert!(refused[0].why.contains(why), "{}", refused[0].why);
    }

    #[test]
    fn a_bad_bundle_is_refused_and_the_others_are_kept() {
        check(ID, "", "it is empty");
        check(ID, "[]", "must contain a 'keys' array");
        check(ID, "{\"keys\":{}}", "must contain a 'keys' array");
        check(ID, "{\"keys\":[", "EOF while parsing");
        check(ID, "{\"keys\":[]} {}", "trailing characters");
        check(ID, "\u{fffd}", "expected value");
        check(ID, "{\"keys\":[{\"kty\":\"EC\"}]}", "missing key ID");
        check(ID, "{\"keys\":[{\"kid\":7}]}", "missing key ID");
        check("spiffe://Example.org", GOOD, "has 'E' in its trust domain");
        check("spiffe://example.org/a", GOOD, "has a path");
        check("example.org", GOOD, "does not begin with `spiffe://`");
        // A document may not exhaust the stack.
        check(ID, &"[".repeat(100_000), "recursion limit");
    }

    #[test]
    fn documents_are_kept_byte_for_byte_and_shared_while_unchanged() {
        let spaced = " { \"keys\" : [ ] } ";
        let first = update([(ID, GOOD), ("spiffe://other.org", spaced)]);
        let (held, refused) = collect(&first, &JwtBundles::new());
        assert!(refused.is_empty());
        assert_eq!(&*held["other.org"], spaced.as_bytes());
        let (again, _) = collect(&update([(ID, GOOD)]), &held);
        assert!(Arc::ptr_eq(&again["example.org"], &held["example.org"]));
        assert!(
            !again.contains_key("other.org"),
            "each message is all there is"
        );
    }
}
