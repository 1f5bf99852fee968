//! Values of policies as Envoy's matchers.

use std::net::IpAddr;

use serde_json::{Value, json};

/// Envoy has two languages of the same shape: what may be done, and by whom.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Permission,
    Principal,
}

impl Side {
    pub(super) fn all(self, list: &[Value]) -> Value {
        match self {
            _ if list.is_empty() => json!({"any": true}),
            Self::Permission => json!({"and_rules": {"rules": list}}),
            Self::Principal => json!({"and_ids": {"ids": list}}),
        }
    }

    pub(super) fn any(self, list: &[Value]) -> Value {
        match self {
            Self::Permission => json!({"or_rules": {"rules": list}}),
            Self::Principal => json!({"or_ids": {"ids": list}}),
        }
    }

    pub(super) fn not(self, value: &Value) -> Value {
        match self {
            Self::Permission => json!({"not_rule": value}),
            Self::Principal => json!({"not_id": value}),
        }
    }
}

/// Any of `values`, and none of `negative`.
pub(super) fn plain(
    side: Side,
    values: &[String],
    negative: &[String],
    one: impl Fn(&String) -> Value,
    fields: &mut Vec<Value>,
) {
    if !values.is_empty() {
        fields.push(side.any(&values.iter().map(&one).collect::<Vec<_>>()));
    }
    if !negative.is_empty() {
        fields.push(side.not(&side.any(&negative.iter().map(&one).collect::<Vec<_>>())));
    }
}

/// `exact`, `prefix*`, `*suffix`, and `*` alone: not empty.
pub(super) fn string(prefix: &str, value: &str) -> Value {
    if value == "*" {
        regex(".+")
    } else if let Some(suffix) = value.strip_prefix('*') {
        if prefix.is_empty() {
            json!({"suffix": suffix})
        } else {
            regex(&format!("{prefix}.*{}", quote(suffix)))
        }
    } else if let Some(start) = value.strip_suffix('*') {
        json!({"prefix": format!("{prefix}{start}")})
    } else {
        json!({"exact": format!("{prefix}{value}")})
    }
}

pub(super) fn header(name: &str, value: &str) -> Value {
    let mut matcher = json!({"name": name});
    if value == "*" {
        matcher["present_match"] = true.into();
    } else {
        matcher["string_match"] = string("", value);
    }
    json!({"header": matcher})
}

/// A claim of the token that Envoy verified, or an element of it.
pub(super) fn claim(path: &[&str], text: &Value) -> Value {
    let path = ["payload"].iter().chain(path);
    let path: Vec<Value> = path.map(|key| json!({"key": key})).collect();
    let one = |value: Value| json!({"metadata": {"filter": "envoy.filters.http.jwt_authn", "path": path, "value": value}});
    Side::Principal.any(&[
        one(json!({"string_match": text})),
        one(json!({"list_match": {"one_of": {"string_match": text}}})),
    ])
}

#[allow(clippy::ptr_arg, reason = "one of several functions of the same type")]
pub(super) fn path(value: &String) -> Value {
    if !value.contains('{') {
        return json!({"url_path": {"path": string("", value)}});
    }
    let template = value.replace(['{', '}'], "");
    json!({"uri_template": {
        "name": "envoy.path.match.uri_template.uri_template_matcher",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
            "path_template": template,
        },
    }})
}

#[allow(clippy::ptr_arg, reason = "one of several functions of the same type")]
pub(super) fn port(value: &String) -> Value {
    json!({"destination_port": value.parse::<u16>().expect("a port")})
}

pub(super) fn cidr(block: &str) -> Value {
    let (address, length) = match block.split_once('/') {
        Some((address, length)) => (address, length.parse().expect("a prefix length")),
        None => match block.parse().expect("an address") {
            IpAddr::V4(_) => (block, 32),
            IpAddr::V6(_) => (block, 128),
        },
    };
    json!({"address_prefix": address, "prefix_len": length})
}

pub(super) fn regex(expression: &str) -> Value {
    json!({"safe_regex": {"regex": expression}})
}

/// A pattern as a regular expression: `part` stands for a `*` beside something, `whole` for one alone.
pub(super) fn wildcard(pattern: &str, part: &str, whole: &str) -> String {
    if pattern == "*" {
        whole.to_owned()
    } else if let Some(suffix) = pattern.strip_prefix('*') {
        format!("{part}{}", quote(suffix))
    } else if let Some(prefix) = pattern.strip_suffix('*') {
        format!("{}{part}", quote(prefix))
    } else {
        quote(pattern)
    }
}

pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::new();
    for c in text.chars() {
        if c.is_ascii_punctuation() && !matches!(c, '_' | '/') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted
}
