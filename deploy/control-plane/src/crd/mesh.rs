//! Rules for the kinds that say what the mesh consists of.

use schemars::Schema;
use serde_json::{Value, json};

use super::rule::{Rule, demand, literal, longest, most};
use super::structural::DEFAULT;
use crate::yaml::schema::ROOT_NAMESPACE;
use crate::yaml::words;

const MOST_ALIASES: u32 = 16;
const MOST_ADDRESSES: u32 = 32;
const MOST_HOSTS: u32 = 32;
const MOST_PORTS: u32 = 64;
const LONGEST_SEGMENT: u32 = 253;

pub(crate) fn aliases(schema: &mut Schema) {
    most(schema, MOST_ALIASES);
}

pub(crate) fn root_namespace(schema: &mut Schema) {
    longest(schema, LONGEST_SEGMENT);
    schema.insert(DEFAULT.into(), ROOT_NAMESPACE.into());
    demand(
        schema,
        [Rule::quoting(
            "self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')",
            "self",
            words::NOT_A_NAMESPACE,
        )],
    );
}

pub(crate) fn workload(schema: &mut Schema) {
    let outside = "has(self.mesh) && !self.mesh";
    let account = Rule::new(
        format!("{outside} || (has(self.serviceAccount) && self.serviceAccount != '')"),
        words::NO_SERVICE_ACCOUNT,
    );
    // A machine without a sidecar needs none, and nobody reads it then.
    let segment = Rule::quoting(
        format!(
            "{outside} || !has(self.serviceAccount) || self.serviceAccount == '' || \
             (self.serviceAccount.matches('^[a-zA-Z0-9._-]+$') && !(self.serviceAccount in ['.', '..']))"
        ),
        "self.serviceAccount",
        words::NOT_IN_SPIFFE_ID,
    );
    let identity = Rule::new(
        format!("!({outside}) || !has(self.spiffeId)"),
        words::NO_IDENTITY,
    );
    demand(
        schema,
        [
            account.about("serviceAccount"),
            segment.about("serviceAccount"),
            identity.about("spiffeId"),
        ],
    );
}

pub(crate) fn service_account(schema: &mut Schema) {
    longest(schema, LONGEST_SEGMENT);
}

pub(crate) fn workload_addresses(schema: &mut Schema) {
    most(schema, MOST_ADDRESSES);
    demand(schema, [Rule::new("self.size() > 0", words::NO_ADDRESS)]);
}

pub(crate) fn ports(schema: &mut Schema) {
    most(schema, MOST_PORTS);
    // Which one it is would cost more to say than the API server allows.
    demand(
        schema,
        [Rule::new(
            "self.all(it, self.exists_one(other, other.port == it.port))",
            format!("a port{}", words::NAMED_TWICE),
        )],
    );
}

pub(crate) fn service(schema: &mut Schema) {
    let some = |field: &str| format!("(has(self.{field}) && self.{field}.size() > 0)");
    demand(
        schema,
        [Rule::new(
            format!("{} || {}", some("addresses"), some("hosts")),
            words::NOTHING_TO_DIAL,
        )],
    );
}

pub(crate) fn service_addresses(schema: &mut Schema) {
    most(schema, MOST_ADDRESSES);
}

pub(crate) fn hosts(schema: &mut Schema) {
    most(schema, MOST_HOSTS);
}

pub(crate) fn service_selector(schema: &mut Schema) {
    demand(
        schema,
        [Rule::new("self.size() > 0", words::SELECTS_NOTHING)],
    );
}

pub(crate) fn service_ports(schema: &mut Schema) {
    ports(schema);
    demand(schema, [Rule::new("self.size() > 0", words::NO_PORT)]);
}

pub(crate) fn peer_authentication(schema: &mut Schema) {
    let rule = Rule::new(
        "!has(self.portLevelMtls) || self.portLevelMtls.size() == 0 || \
         (has(self.selector) && has(self.selector.matchLabels) && self.selector.matchLabels.size() > 0)",
        words::NEEDS_SELECTOR,
    );
    demand(schema, [rule.about("portLevelMtls")]);
}

/// By ports, which are strings where they are keys.
pub(crate) fn port_level_mtls(schema: &mut Schema) {
    let patterns = schema.remove("patternProperties");
    let mtls = match (schema.remove("additionalProperties"), patterns) {
        (Some(mtls @ Value::Object(_)), _) => mtls,
        (_, Some(Value::Object(patterns))) => {
            patterns.into_iter().next().map_or(json!({}), |it| it.1)
        }
        _ => json!({}),
    };
    schema.insert("additionalProperties".into(), mtls);
    schema.insert("maxProperties".into(), MOST_PORTS.into());
    let bad = "!port.matches('^[1-9][0-9]{0,4}$') || int(port) > 65535";
    let rule = Rule::new(
        format!("self.all(port, !({bad}))"),
        words::NOT_A_PORT_NUMBER.trim_start(),
    );
    let says = format!(
        "self.filter(port, {bad})[0] + {}",
        literal(words::NOT_A_PORT_NUMBER)
    );
    demand(schema, [rule.saying(says)]);
}
