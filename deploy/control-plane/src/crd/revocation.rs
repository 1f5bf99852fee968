//! Rules for a Revocation.

use schemars::Schema;

use super::rule::{Rule, demand, longest};
use crate::yaml::revocation::{MAX_REASON, MAX_SERIAL, reason_too_long, serial_too_long};
use crate::yaml::words;

const LONGEST_SERIAL: u32 = 256;
const LONGEST_TEXT: u32 = 512;
const LONGEST_TIME: u32 = 64;

pub(crate) fn spec(schema: &mut Schema) {
    let until = Rule::new("has(self.until)", words::NO_UNTIL);
    let reason = Rule::new("has(self.reason)", words::NO_REASON);
    demand(
        schema,
        [
            exactly_one(&["principal", "certificate", "token"], words::ONE_REVOKED),
            until.about("until"),
            reason.about("reason"),
        ],
    );
}

pub(crate) fn token(schema: &mut Schema) {
    demand(schema, [exactly_one(&["sha256", "jti"], words::ONE_TOKEN)]);
}

fn exactly_one(fields: &[&str], message: &str) -> Rule {
    let named = fields.iter().map(|it| format!("has(self.{it})"));
    let named = named.collect::<Vec<_>>().join(", ");
    Rule::new(format!("[{named}].exists_one(given, given)"), message)
}

/// Colons between digits, and zeros before the number, say nothing.
pub(crate) fn serial(schema: &mut Schema) {
    longest(schema, LONGEST_SERIAL);
    let (hex, zero) = (
        "self.matches('^:*([0-9A-Fa-f]:*)+$')",
        "self.matches('^[0:]*$')",
    );
    let long = format!(
        "self.matches('^[0:]*[1-9A-Fa-f]:*([0-9A-Fa-f]:*){{{},}}$')",
        2 * MAX_SERIAL
    );
    demand(
        schema,
        [
            Rule::quoting(hex, "self", words::NOT_A_SERIAL),
            Rule::new(format!("!{hex} || !{zero}"), words::SERIAL_ZERO),
            Rule::new(format!("!{long}"), serial_too_long()),
        ],
    );
}

pub(crate) fn sha256(schema: &mut Schema) {
    longest(schema, LONGEST_TEXT);
    demand(
        schema,
        [Rule::new(
            "self.matches('^[0-9A-Fa-f]{64}$')",
            words::NOT_A_HASH,
        )],
    );
}

pub(crate) fn jti(schema: &mut Schema) {
    longest(schema, LONGEST_TEXT);
    demand(schema, [Rule::new("self != ''", words::EMPTY_JTI)]);
}

pub(crate) fn until(schema: &mut Schema) {
    longest(schema, LONGEST_TIME);
    // A day that no month has, and a leap second at any other time than a month's end, are left to the engine.
    let time = "self.matches('^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[ -~]([01][0-9]|2[0-3]):[0-5][0-9]:\
        ([0-5][0-9]|60)([.][0-9]+)?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$')";
    demand(
        schema,
        [
            Rule::quoting(time, "self", words::NOT_A_TIME),
            Rule::quoting(
                format!("!{time} || self >= '1969-12-31'"),
                "self",
                words::OUT_OF_TIME,
            ),
        ],
    );
}

pub(crate) fn reason(schema: &mut Schema) {
    longest(schema, LONGEST_TEXT);
    let long = reason_too_long();
    demand(
        schema,
        [
            Rule::new("self.trim() != ''", words::NO_REASON),
            Rule::new(
                format!(
                    "self.trim() == '' || (bytes(self).size() <= {MAX_REASON} && !self.matches('[\\\\x00-\\\\x1f\\\\x7f-\\\\x9f]'))"
                ),
                long,
            ),
        ],
    );
}
