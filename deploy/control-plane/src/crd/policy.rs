//! Rules for what an AuthorizationPolicy says as a whole.

use kith_policy::words::{
    CONDITIONS, DENY_WITHOUT_RULES, ELSEWHERE, EMPTY_OPERATION, EMPTY_SOURCE, HOST_HEADER,
    NO_VALUES, NOT_A_CLAIM, NOT_A_CONDITION, NOT_A_HEADER, conditions,
};
use schemars::Schema;
use serde_json::{Value, json};

use super::rule::{Rule, demand, literal, longest, quoted};
use super::structural::DEFAULT;
use crate::yaml::schema::{ACTIONS, NO_CUSTOM, NO_TARGET};
use crate::yaml::words;

const LONGEST_KEY: u32 = 320;
const LONGEST_ACTION: u32 = 64;

pub(crate) fn spec(schema: &mut Schema) {
    let rules = Rule::new(
        "!has(self.action) || self.action != 'DENY' || (has(self.rules) && self.rules.size() > 0)",
        DENY_WITHOUT_RULES,
    );
    demand(schema, [rules.about("rules")]);
}

/// No `enum`: CUSTOM is refused with its reason, and nobody is told to write it.
pub(crate) fn action(schema: &mut Schema) {
    let actions = ACTIONS.map(literal).join(", ");
    let expected = ACTIONS.map(|it| format!("`{it}`")).join(", ");
    longest(schema, LONGEST_ACTION);
    schema.insert(DEFAULT.into(), ACTIONS[0].into());
    let unknown = format!("`, expected one of {expected}");
    demand(
        schema,
        [
            Rule::new(format!("self in [{actions}]"), NO_CUSTOM).saying(format!(
                "self == 'CUSTOM' ? {} : 'unknown variant `' + self + {}",
                literal(NO_CUSTOM),
                literal(&unknown)
            )),
        ],
    );
}

pub(crate) fn no_target(schema: &mut Schema) {
    *schema = refused("object", NO_TARGET);
}

/// A list of them.
pub(crate) fn targets(schema: &mut Schema) {
    let description = schema.remove("description");
    *schema = refused("array", NO_TARGET);
    schema.insert("maxItems".into(), 64.into());
    schema.insert("items".into(), anything());
    if let Some(description) = description {
        schema.insert("description".into(), description);
    }
}

pub(crate) fn no_provider(schema: &mut Schema) {
    *schema = refused("object", NO_CUSTOM);
}

/// What is refused with its own reason, whatever is in it.
pub(super) fn refused(kind: &str, message: &str) -> Schema {
    let mut schema = Schema::default();
    schema.insert("type".into(), kind.into());
    if kind == "object" {
        schema.insert("additionalProperties".into(), false.into());
    }
    demand(&mut schema, [Rule::new("false", message)]);
    schema
}

fn anything() -> Value {
    json!({"type": "object", "additionalProperties": false})
}

pub(crate) fn source(schema: &mut Schema) {
    some_field(schema, EMPTY_SOURCE);
}

pub(crate) fn operation(schema: &mut Schema) {
    some_field(schema, EMPTY_OPERATION);
}

/// One that has nothing but an unknown key is left to the engine, which names the key.
fn some_field(schema: &mut Schema, message: &str) {
    let fields: Vec<String> = match schema.get("properties") {
        Some(Value::Object(properties)) => properties.keys().cloned().collect(),
        _ => Vec::new(),
    };
    let named: Vec<String> = fields.iter().map(|it| format!("has(self.{it})")).collect();
    demand(schema, [Rule::new(named.join(" || "), message)]);
}

pub(crate) fn condition(schema: &mut Schema) {
    demand(
        schema,
        [
            Rule::new("!has(self.cel) || !has(self.key)", words::CEL_OR_KEY),
            Rule::new(
                "!has(self.cel) || has(self.key) || (!has(self.values) && !has(self.notValues))",
                words::CEL_DECIDES,
            ),
            Rule::new("has(self.cel) || has(self.key)", words::NEITHER_CEL_NOR_KEY),
            Rule::new(
                "!has(self.key) || has(self.cel) || has(self.values) || has(self.notValues)",
                NO_VALUES,
            ),
        ],
    );
}

/// As the engine reads keys, but for what was probably meant by an unknown one.
pub(crate) fn key(schema: &mut Schema) {
    let plain: Vec<String> = (CONDITIONS.iter())
        .filter(|key| !key.contains('['))
        .map(|key| literal(key))
        .collect();
    let claim = literal(r"^request[.]auth[.]claims(\[[^\[\]]+\])+$");
    let header = literal(r"^request[.]headers\[[!#$%&'*+.^_`|~0-9A-Za-z-]+\]$");
    let holds = format!(
        "self in [{}] || self.matches({claim}) || \
         (self.matches({header}) && self.lowerAscii() != 'request.headers[host]')",
        plain.join(", ")
    );
    let unknown = format!("{NOT_A_CONDITION}{}{ELSEWHERE}", conditions());
    let says = format!(
        "self.startsWith({}) ? {} : self.lowerAscii() == 'request.headers[host]' ? {} : \
         self.startsWith('request.auth.claims') ? {} : \
         self.startsWith('request.headers[') && self.endsWith(']') ? {} : {}",
        literal(words::EXPERIMENTAL),
        quoted("self", words::NO_ENVOY),
        quoted("self", HOST_HEADER),
        quoted("self", NOT_A_CLAIM),
        quoted("self.substring(16, self.size() - 1)", NOT_A_HEADER),
        quoted("self", &unknown)
    );
    longest(schema, LONGEST_KEY);
    let rule = Rule::new(holds, NOT_A_CONDITION.trim_start());
    demand(schema, [rule.saying(says)]);
}

pub(super) fn string(characters: u32) -> Schema {
    let mut schema = Schema::default();
    schema.insert("type".into(), "string".into());
    longest(&mut schema, characters);
    schema
}
