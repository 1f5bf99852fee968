//! The lists of an AuthorizationPolicy: how long they may be, and what may be in them.
//!
//! The API server estimates what a rule costs as if every list and string were as long as it may be, one inside the other,
//! and refuses a CustomResourceDefinition that could cost too much. So they are bounded, and only rules that read a string
//! once or twice are here. `kith.dev` policies in files have the same bounds (see `bounds`).

use kith_policy::words;
use schemars::Schema;

use super::rule::{Rule, demand, each, literal, longest, most, quoted};
use crate::yaml::words::EMPTY_LIST;

const MOST_RULES: u32 = 32;
const MOST_ENTRIES: u32 = 16;
const MANY: u32 = 64;
const SOME: u32 = 32;
const LONGEST_EXPRESSION: u32 = 8192;

pub(crate) fn rules(schema: &mut Schema) {
    most(schema, MOST_RULES);
}

pub(crate) fn entries(schema: &mut Schema) {
    most(schema, MOST_ENTRIES);
    not_empty(schema);
}

pub(crate) fn expression(schema: &mut Schema) {
    longest(schema, LONGEST_EXPRESSION);
}

pub(crate) fn principals(schema: &mut Schema) {
    list(schema, MANY, 256, [patterns(), principal()]);
}

pub(crate) fn namespaces(schema: &mut Schema) {
    list(schema, MANY, 64, [patterns()]);
}

pub(crate) fn service_accounts(schema: &mut Schema) {
    list(schema, MANY, 192, [patterns()]);
}

pub(crate) fn trust_domains(schema: &mut Schema) {
    list(schema, SOME, 256, [patterns()]);
}

pub(crate) fn blocks(schema: &mut Schema) {
    // An IPv4-mapped block is left to the engine: the API server knows none.
    let holds =
        "isIP(self) || isCIDR(self) || self.startsWith('::ffff:') || self.startsWith('::FFFF:')";
    list(
        schema,
        MANY,
        50,
        [Rule::quoting(holds, "self", words::NOT_A_BLOCK)],
    );
}

pub(crate) fn request_principals(schema: &mut Schema) {
    let holds = "self == '' || self.startsWith('*') || self.endsWith('*') || self.contains('/')";
    list(
        schema,
        SOME,
        256,
        [patterns(), Rule::quoting(holds, "self", words::NO_SUBJECT)],
    );
}

pub(crate) fn hosts(schema: &mut Schema) {
    // `*.example:*` and `api*:443` have a `*` for the name, and the port behind it.
    let holds = "self != '' && (self.size() < 2 || [self.indexOf('*', 1)].all(at, at < 0 || \
        (at == self.size() - 1 ? (self.endsWith(':*') || !self.startsWith('*')) : self.charAt(at + 1) == ':')))";
    list(schema, SOME, 272, [pattern_if(holds)]);
}

pub(crate) fn ports(schema: &mut Schema) {
    let holds = "self.matches('^[1-9][0-9]{0,4}$') && int(self) < 65536";
    list(
        schema,
        MANY,
        16,
        [Rule::quoting(holds, "self", words::NOT_A_PORT)],
    );
}

pub(crate) fn methods(schema: &mut Schema) {
    list(schema, SOME, 64, [patterns()]);
}

pub(crate) fn paths(schema: &mut Schema) {
    // A `*` behind a brace is a template's.
    let star = "self != '' && (self.size() < 2 || [self.indexOf('*', 1)].all(at, at < 0 || \
        self.charAt(at - 1) == '{' || (at == self.size() - 1 && !self.startsWith('*'))))";
    let template =
        |holds: &str, message: &str| Rule::quoting(holds, "self", &format!(": {message}"));
    list(
        schema,
        SOME,
        200,
        [
            pattern_if(star),
            template("!self.startsWith('{')", words::TEMPLATE_WITHOUT_SLASH),
            template("!self.matches('[^/]{|}[^/]')", words::TEMPLATE_SEGMENT),
            template("!self.matches('{[^*]')", words::TEMPLATE_SEGMENT),
            template(
                "[self.indexOf('{**}')].all(any, any < 0 || self.lastIndexOf('{') == any)",
                words::TEMPLATE_AFTER_ANY,
            ),
        ],
    );
}

/// Whatever their key is about: of addresses and ports the engine asks more.
pub(crate) fn values(schema: &mut Schema) {
    list(schema, MANY, 256, [patterns()]);
}

fn list<const N: usize>(schema: &mut Schema, items: u32, characters: u32, rules: [Rule; N]) {
    most(schema, items);
    not_empty(schema);
    each(schema, |item| {
        longest(item, characters);
        demand(item, rules);
    });
}

/// An absent list is no restriction; one that is there and empty is a mistake (resources.md).
fn not_empty(schema: &mut Schema) {
    demand(schema, [Rule::new("self.size() > 0", EMPTY_LIST)]);
}

/// Exact, `prefix*`, `*suffix` or `*` (stricter rule 5).
fn patterns() -> Rule {
    pattern_if(
        "self != '' && (self.size() < 2 || \
         self.indexOf('*', 1) in [-1, self.startsWith('*') ? -1 : self.size() - 1])",
    )
}

fn pattern_if(holds: &str) -> Rule {
    Rule::new(holds, words::EMPTY_STRING).saying(format!(
        "self == '' ? {} : {}",
        literal(words::EMPTY_STRING),
        quoted("self", words::MISPLACED_STAR)
    ))
}

/// A trust domain, literal or `*` as a whole, and a path (stricter rule 8).
fn principal() -> Rule {
    let holds = "self == '' || self == '*' || \
        (self.contains('/') && (!self.startsWith('*') || self.charAt(1) == '/'))";
    Rule::new(holds, words::NO_PATH.trim_start()).saying(format!(
        "self.contains('/') ? {} : {}",
        quoted("self", words::TRUST_DOMAIN_NOT_LITERAL),
        quoted("self", words::NO_PATH)
    ))
}
