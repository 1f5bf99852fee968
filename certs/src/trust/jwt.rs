//! The JWT bundles of one update: which of them can be used.

use std::sync::Arc;

use super::{JwtBundles, RefusedBundle};
use crate::TrustDomain;
use crate::jwt::Jwks;
use crate::workload_api::proto::JwtBundlesResponse;

/// The keys for JWT-SVIDs of one trust domain, parsed once. Equal when the documents are. Cheap to clone.
#[derive(Debug, Clone)]
pub struct JwtBundle {
    document: Arc<[u8]>,
    keys: Arc<Jwks>,
}

impl JwtBundle {
    /// From a JWKS document. Bytes that are none make no bundle; a single key that can't be used makes no
    /// difference to the others.
    pub fn parse(document: &[u8]) -> Result<JwtBundle, String> {
        // An empty set of keys is a bundle, and means that nobody's token is good
        // (SPIFFE_Trust_Domain_and_Bundle 4.1.3); no bytes at all are none.
        if document.is_empty() {
            return Err("it is empty".to_owned());
        }
        let keys = Jwks::parse_spiffe_bundle(document).map_err(|why| why.to_string())?;
        Ok(JwtBundle {
            document: document.into(),
            keys: Arc::new(keys),
        })
    }

    pub fn document(&self) -> &Arc<[u8]> {
        &self.document
    }

    pub fn keys(&self) -> &Arc<Jwks> {
        &self.keys
    }
}

impl PartialEq for JwtBundle {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.document, &other.document) || self.document == other.document
    }
}

impl Eq for JwtBundle {}

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
            Ok((domain, bundle)) => {
                bundles.insert(domain, bundle);
            }
            Err(why) => refused.push(RefusedBundle {
                trust_domain: id.clone(),
                why,
            }),
        }
    }
    (bundles, refused)
}

fn parse(id: &str, jwks: &[u8], held: &JwtBundles) -> Result<(TrustDomain, JwtBundle), String> {
    let domain = TrustDomain::from_id(id).map_err(|fault| format!("its name {fault}"))?;
    let bundle = match held.get(&domain) {
        Some(same) if **same.document() == *jwks => same.clone(),
        _ => JwtBundle::parse(jwks)?,
    };
    Ok((domain, bundle))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// RFC 7515 appendix A.3.
    const GOOD: &str = r#"{"keys":[{"kty":"EC","kid":"a","crv":"P-256",
        "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
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
        assert_eq!(&**bundles["good.example"].document(), GOOD.as_bytes());
        assert_eq!(bundles["good.example"].keys().len(), 1);
        assert_eq!((refused.len(), &*refused[0].trust_domain), (1, id));
        assert!(refused[0].why.contains(why), "{}", refused[0].why);
    }

    #[test]
    fn a_bad_bundle_is_refused_and_the_others_are_kept() {
        check(ID, "", "it is empty");
        check(ID, "[]", "is no JSON object");
        check(ID, "{\"keys\":{}}", "no array `keys`");
        check(ID, "{\"keys\":[", "EOF while parsing");
        check(ID, "{\"keys\":[]} {}", "trailing characters");
        check(ID, "{\"keys\":[],\"keys\":[]}", "\"keys\" twice");
        check(ID, "\u{fffd}", "expected value");
        check("spiffe://Example.org", GOOD, "has 'E' in its trust domain");
        check("spiffe://example.org/a", GOOD, "has a path");
        check("example.org", GOOD, "does not begin with `spiffe://`");
        // A document may not exhaust the stack.
        check(ID, &"[".repeat(100_000), "recursion limit");
    }

    #[test]
    fn a_key_that_cannot_be_used_harms_no_other_and_is_named() {
        let mixed = GOOD.replace("[{", "[{\"kty\":\"EC\"},7,{");
        let (bundles, refused) = collect(&update([(ID, &*mixed)]), &JwtBundles::new());
        assert!(refused.is_empty());
        let keys = bundles["example.org"].keys();
        assert_eq!(keys.len(), 1);
        let named: Vec<String> = keys.unusable().iter().map(ToString::to_string).collect();
        assert_eq!(
            named,
            [
                "key 0 has no `kid` (JWT-SVID 6.1)",
                "key 1 is no JSON object"
            ]
        );
    }

    #[test]
    fn documents_are_kept_byte_for_byte_and_shared_while_unchanged() {
        let spaced = " { \"keys\" : [ ] } ";
        let first = update([(ID, GOOD), ("spiffe://other.org", spaced)]);
        let (held, refused) = collect(&first, &JwtBundles::new());
        assert!(refused.is_empty());
        assert_eq!(&**held["other.org"].document(), spaced.as_bytes());
        let (again, _) = collect(&update([(ID, GOOD)]), &held);
        assert!(Arc::ptr_eq(
            again["example.org"].keys(),
            held["example.org"].keys()
        ));
        assert!(
            !again.contains_key("other.org"),
            "each message is all there is"
        );
    }
}
