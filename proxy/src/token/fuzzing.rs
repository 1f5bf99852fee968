//! Where tokens are found, they are taken from, whatever a request looks like.

use std::time::Duration;

use super::rules::{IssuerKeys, Rule, Trust};
use super::*;

/// The first line is a query, the others are headers.
struct Wire<'a>(Vec<(&'a str, &'a [u8])>);

impl<'a> AllHeaders<'a> for Wire<'a> {
    fn each(&self, visit: &mut dyn FnMut(&'a str, &'a [u8])) {
        self.0.iter().for_each(|(name, value)| visit(name, value));
    }
}

fn rules() -> Arc<Rules> {
    let header = |name: &str, prefix: &str| Location::Header {
        name: name.into(),
        prefix: prefix.into(),
    };
    let rule = Rule {
        trust: Trust::Issuer {
            issuer: "https://issuer".into(),
            keys: IssuerKeys {
                document: String::new(),
                keys: None,
            },
        },
        audiences: Vec::new(),
        locations: vec![
            header("authorization", "Bearer "),
            header("x-jwt", ""),
            Location::Param("t".into()),
            Location::Cookie("jwt".into()),
        ],
        forward: false,
        payload_header: None,
        claim_headers: Vec::new(),
        skew: Duration::ZERO,
        bound: false,
    };
    match Rules::new(vec![rule]) {
        Some(rules) => Arc::new(rules),
        None => panic!("there is a rule"),
    }
}

pub(crate) fn locate(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let Some(Ok(query)) = lines.next().map(std::str::from_utf8) else {
        return;
    };
    let headers = Wire(
        lines
            .filter_map(|line| {
                let colon = line.iter().position(|byte| *byte == b':')?;
                let name = std::str::from_utf8(&line[..colon]).ok()?;
                Some((name, line[colon + 1..].trim_ascii()))
            })
            .collect(),
    );
    let rules = rules();

    let written = query::redacted(query, |name| rules.is_token_param(name));
    for (name, value) in query::parameters(&written) {
        let value = value.split(';').next().unwrap_or_default();
        let is_token = rules.is_token_param(&query::decode(name));
        assert!(
            !is_token || value.is_empty() || value == "redacted",
            "written down: {written}"
        );
    }

    let Ok(Some(found)) = locate::locate(rules.locations(), &headers, Some(query)) else {
        return;
    };
    let examined = Examined {
        rules: Some(Arc::clone(&rules)),
        token: None,
        stripped: found.at,
    };
    let left = examined.query(Some(query));
    let cookies = examined.cookies(&headers);
    let mut forwarded: Vec<(&str, &[u8])> = Vec::new();
    headers.each(&mut |name, value| {
        let replaced = cookies.is_some() && name.eq_ignore_ascii_case("cookie");
        if !replaced && !examined.removed().any(|removed| same_name(removed, name)) {
            forwarded.push((name, value));
        }
    });
    if let Some(left) = cookies.as_deref().filter(|left| !left.is_empty()) {
        forwarded.push(("cookie", left));
    }
    let again = locate::locate(rules.locations(), &Wire(forwarded), left.as_deref());
    assert!(
        matches!(again, Ok(None)),
        "the application finds a token that was taken from it"
    );
}
