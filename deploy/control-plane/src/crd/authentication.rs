//! Rules for a RequestAuthentication.

use schemars::Schema;
use serde_json::Value;

use super::policy::refused;
use super::rule::{Rule, demand, each, literal, longest, most};
use crate::yaml::authentication::NO_SPACE_DELIMITED_CLAIMS;
use crate::yaml::words;

const MOST_RULES: u32 = 32;
const MOST_ENTRIES: u32 = 16;
const LONGEST_TEXT: u32 = 512;
const LONGEST_HEADER: u32 = 128;
const LONGEST_KEY_SET: u32 = 65_536;
/// RFC 9110 section 5.6.2.
const HEADER: &str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";

pub(crate) fn rules(schema: &mut Schema) {
    most(schema, MOST_RULES);
}

pub(crate) fn entries(schema: &mut Schema) {
    most(schema, MOST_ENTRIES);
}

pub(crate) fn text(schema: &mut Schema) {
    longest(schema, LONGEST_TEXT);
}

pub(crate) fn texts(schema: &mut Schema) {
    most(schema, MOST_ENTRIES);
    each(schema, |item| {
        longest(item, LONGEST_TEXT);
        demand(item, [Rule::new("self != ''", words::REMOVE_EMPTY)]);
    });
}

pub(crate) fn keys(schema: &mut Schema) {
    longest(schema, LONGEST_KEY_SET);
}

pub(crate) fn rule(schema: &mut Schema) {
    // Istio has both spellings, and so the engine reads both.
    if let Some(Value::Object(properties)) = schema.get_mut("properties")
        && let Some(mut uri) = properties.get("jwksUri").cloned()
    {
        if let Some(uri) = uri.as_object_mut() {
            uri.insert(
                "description".into(),
                "Another spelling of `jwksUri`.".into(),
            );
        }
        properties.insert("jwks_uri".into(), uri);
    }
    let uri = "(has(self.jwksUri) || has(self.jwks_uri))";
    let issuer = "(has(self.issuer) && self.issuer != '')";
    demand(
        schema,
        [
            Rule::new(
                format!("!has(self.spiffeTrustDomain) || !{issuer}"),
                words::REMOVE_ISSUER,
            )
            .about("spiffeTrustDomain"),
            Rule::new(
                format!("has(self.spiffeTrustDomain) || {issuer}"),
                words::NO_ISSUER,
            )
            .about("issuer"),
            Rule::new(
                "!has(self.spiffeTrustDomain) || !has(self.jwks)",
                words::REMOVE_KEYS,
            )
            .about("jwks"),
            Rule::new(
                format!("!has(self.spiffeTrustDomain) || has(self.jwks) || !{uri}"),
                words::REMOVE_KEYS,
            )
            .about("jwksUri"),
            Rule::new(
                format!("has(self.spiffeTrustDomain) || !has(self.jwks) || !{uri}"),
                words::TWO_KEY_SETS,
            )
            .about("jwksUri"),
            Rule::new(
                "!has(self.jwksUri) || !has(self.jwks_uri)",
                "duplicate field `jwksUri`",
            )
            .about("jwksUri"),
        ],
    );
    // What is there twice is said once, of the second.
    if let Some(Value::Object(properties)) = schema.get_mut("properties")
        && let Some(claims) = properties.get_mut("outputClaimToHeaders")
        && let Ok(claims) = <&mut Schema>::try_from(claims)
    {
        headers_once(claims);
    }
}

fn headers_once(claims: &mut Schema) {
    let same = "other.header.lowerAscii() == it.header.lowerAscii()";
    // Which one it is would cost more to say than the API server allows.
    demand(
        claims,
        [Rule::new(
            format!("self.all(it, self.exists_one(other, {same}))"),
            format!("a header{}", words::NAMED_TWICE),
        )],
    );
}

pub(crate) fn no_space_delimited_claims(schema: &mut Schema) {
    *schema = refused("array", NO_SPACE_DELIMITED_CLAIMS);
    most(schema, MOST_ENTRIES);
    schema.insert(
        "items".into(),
        serde_json::json!({"type": "string", "maxLength": LONGEST_TEXT}),
    );
}

pub(crate) fn header(schema: &mut Schema) {
    longest(schema, LONGEST_HEADER);
    let holds = format!("self.matches({})", literal(HEADER));
    demand(schema, [Rule::quoting(holds, "self", words::NOT_A_HEADER)]);
}

pub(crate) fn header_or_none(schema: &mut Schema) {
    longest(schema, LONGEST_HEADER);
    let holds = format!("self == '' || self.matches({})", literal(HEADER));
    demand(schema, [Rule::quoting(holds, "self", words::NOT_A_HEADER)]);
}

pub(crate) fn claim(schema: &mut Schema) {
    longest(schema, LONGEST_TEXT);
    demand(schema, [Rule::new("self != ''", words::NO_CLAIM)]);
}

/// Of a text that is none, the type's own rule says so.
const DURATION: &str = "!self.matches('^([0-9]+[.]?[0-9]*(h|m|s|ms|us|ns))+$')";

pub(crate) fn timeout(schema: &mut Schema) {
    let holds = format!(
        "{DURATION} || (duration(self) > duration('0s') && duration(self) <= duration('10m'))"
    );
    demand(schema, [Rule::new(holds, words::TIMEOUT)]);
}

pub(crate) fn clock_skew(schema: &mut Schema) {
    let holds = format!(
        "{DURATION} || (duration(self) <= duration('60s') && duration(self).getMilliseconds() % 1000 == 0)"
    );
    demand(schema, [Rule::new(holds, words::CLOCK_SKEW)]);
}
