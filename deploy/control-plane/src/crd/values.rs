//! Schemas of the values that are right once they exist.

use std::borrow::Cow;

use kith_certs::SpiffeIdError;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::json;

use super::policy::string;
use super::rule::{Rule, demand, literal, quoted};
use crate::yaml::value::{Address, Duration, Host, Labels, Port, SpiffeId, TrustDomain};
use crate::yaml::words;

const MOST_LABELS: u32 = 32;
/// SPIFFE-ID section 2.3.
const LONGEST_ID: u32 = 2048;
/// SPIFFE-ID section 2.1.
const LONGEST_TRUST_DOMAIN: u32 = 255;
const LONGEST_HOST: u32 = 254;
/// Long enough for IPv6 with an IPv4 address in it.
const LONGEST_ADDRESS: u32 = 64;
const LONGEST_DURATION: u32 = 64;

/// Each is written where it is used: a structural schema has no references.
macro_rules! schema_of {
    ($type:ty, $make:expr) => {
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $make
            }
        }
    };
}

schema_of!(Address, address());
schema_of!(Duration, duration());
schema_of!(Host, host());
schema_of!(Labels, labels());
schema_of!(Port, port());
schema_of!(SpiffeId, spiffe_id());
schema_of!(TrustDomain, trust_domain());

fn address() -> Schema {
    // An IPv4-mapped address is left to the engine: the API server knows none.
    let is_one = "isIP(self) || self.lowerAscii().contains(':ffff:')";
    let of_machine = "!isIP(self) || !(ip(self).isUnspecified() || \
        cidr('224.0.0.0/4').containsIP(ip(self)) || cidr('ff00::/8').containsIP(ip(self)))";
    let mut schema = string(LONGEST_ADDRESS);
    demand(
        &mut schema,
        [
            Rule::quoting(is_one, "self", words::NOT_AN_ADDRESS),
            Rule::quoting(of_machine, "self", words::NOT_ONE_MACHINE),
        ],
    );
    schema
}

fn host() -> Schema {
    let label = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?";
    let name = literal(&format!(r"^{label}(\.{label})*\.?$"));
    let mut schema = string(LONGEST_HOST);
    demand(
        &mut schema,
        [
            Rule::quoting("!isIP(self)", "self", words::HOST_IS_ADDRESS),
            Rule::quoting(
                format!("isIP(self) || self.matches({name})"),
                "self",
                words::NOT_A_HOST,
            ),
        ],
    );
    schema
}

fn labels() -> Schema {
    let mut schema = Schema::default();
    schema.insert("type".into(), "object".into());
    schema.insert(
        "additionalProperties".into(),
        json!({"type": "string", "maxLength": 63}),
    );
    schema.insert("maxProperties".into(), MOST_LABELS.into());
    let bad = "key == '' || key.contains('*') || self[key].contains('*')";
    let first = format!("self.filter(key, {bad})[0]");
    let rule = Rule::new(
        format!("self.all(key, !({bad}))"),
        words::LABEL_NEVER.trim_start_matches([':', ' ']),
    );
    demand(
        &mut schema,
        [rule.saying(format!(
            "'label `' + {first} + ': ' + self[{first}] + {}",
            literal(&format!("`{}", words::LABEL_NEVER))
        ))],
    );
    schema
}

fn port() -> Schema {
    let mut schema = Schema::default();
    schema.insert("type".into(), "integer".into());
    // Which number it is, the API server says itself.
    demand(
        &mut schema,
        [Rule::new(
            "self >= 1 && self <= 65535",
            words::NOT_A_PORT_NUMBER.trim_start(),
        )],
    );
    schema
}

/// A length of time as the engine reads it; how long it may be is said where it is used.
fn duration() -> Schema {
    let mut schema = string(LONGEST_DURATION);
    let number = "^(([0-9]+[.]?[0-9]*|[.][0-9]+)(h|m|s|ms|us|µs|ns))+$";
    demand(
        &mut schema,
        [Rule::quoting(
            format!("self.matches({})", literal(number)),
            "self",
            words::NOT_A_DURATION,
        )],
    );
    schema
}

fn trust_domain() -> Schema {
    let none = SpiffeIdError::NoTrustDomain.to_string();
    let rule = Rule::new(
        "self.startsWith('spiffe://') || self.matches('^[a-z0-9._-]+$')",
        none.clone(),
    );
    let mut schema = string(LONGEST_TRUST_DOMAIN);
    demand(
        &mut schema,
        [
            Rule::quoting(
                "!self.startsWith('spiffe://')",
                "self",
                words::TRUST_DOMAIN_ALONE,
            ),
            rule.saying(format!(
                "self == '' ? {} : {}",
                literal(&format!("`` {none}")),
                character(SpiffeIdError::TrustDomainCharacter, "[^a-z0-9._-]", "self")
            )),
        ],
    );
    schema
}

fn spiffe_id() -> Schema {
    let [scheme, no_domain, segment, dots] = [
        SpiffeIdError::Scheme,
        SpiffeIdError::NoTrustDomain,
        SpiffeIdError::EmptySegment,
        SpiffeIdError::DotSegment,
    ]
    .map(|error| quoted("self", &format!(" {error}")));
    let rule = Rule::new(
        "self.matches('^spiffe://[a-z0-9._-]+(/[a-zA-Z0-9._-]+)+$') && !self.matches('/[.][.]?(/|$)')",
        SpiffeIdError::Scheme.to_string(),
    );
    let path = "self.substring(self.indexOf('/', 9))";
    let says = format!(
        "!self.startsWith('spiffe://') ? {scheme} : \
         self.matches('^spiffe://(/|$)') ? {no_domain} : \
         !self.matches('^spiffe://[a-z0-9._-]+(/|$)') ? {} : \
         !self.matches('^spiffe://[^/]*/') ? {} : \
         {path}.matches('[^a-zA-Z0-9._/-]') ? {} : \
         self.matches('/[.][.]?(/|$)') ? {dots} : {segment}",
        character(
            SpiffeIdError::TrustDomainCharacter,
            "[^a-z0-9._-]",
            "self.substring(9)"
        ),
        quoted("self", words::NO_WORKLOAD),
        character(SpiffeIdError::PathCharacter, "[^a-zA-Z0-9._/-]", path),
    );
    let mut schema = string(LONGEST_ID);
    demand(&mut schema, [rule.saying(says)]);
    schema
}

/// The expression for what is said of the first character of `part` that `not_allowed` finds.
fn character(error: fn(char) -> SpiffeIdError, not_allowed: &str, part: &str) -> String {
    const STAND_IN: char = '?';
    let said = format!("` {}", error(STAND_IN));
    let (before, after) = said.split_once(STAND_IN).unwrap_or((&said, ""));
    format!(
        "'`' + self + {} + {part}.find({}) + {}",
        literal(before),
        literal(not_allowed),
        literal(after)
    )
}
