//! What is said of a policy that is refused, for whoever has to say the same in another place: a cluster's API server
//! refuses with these words too. What begins with a space or a colon goes on after the value in quotes.

pub const DENY_WITHOUT_RULES: &str =
    "a DENY without rules denies nothing; to deny everything, write one empty rule";
pub const EMPTY_SOURCE: &str = "a source without any field; remove it, or name who is meant";
pub const EMPTY_OPERATION: &str =
    "an operation without any field; remove it, or name what is meant";
pub const NO_VALUES: &str = "a condition without values; give `values` or `notValues`";
pub const CEL_AND_KEY: &str = "a condition has either `key` with values, or `cel`";
pub const EMPTY_STRING: &str = "an empty string matches nothing; remove it";
pub const MISPLACED_STAR: &str =
    " has a `*` in the wrong place: one may stand alone, first or last, and is never literal";
pub const NOT_A_PORT: &str = " is not a port: a decimal number from 1 to 65535";
pub const NOT_A_BLOCK: &str =
    " is neither an address nor a CIDR; for every address use `0.0.0.0/0` and `::/0`";
pub const NO_PATH: &str =
    " has no path; a principal is `trust-domain/path`; for a whole trust domain use trustDomains";
pub const TRUST_DOMAIN_NOT_LITERAL: &str =
    ": the trust domain of a principal is literal, or `*` as a whole";
pub const NO_SUBJECT: &str = " can never match: a request principal is `issuer/subject`";
pub const TEMPLATE_WITHOUT_SLASH: &str = "a path template starts with `/`";
pub const TEMPLATE_AFTER_ANY: &str = "no template and no `*` may follow `{**}`";
pub const TEMPLATE_SEGMENT: &str = "a template has whole segments `{*}` or `{**}` and no other `*`, `{` or `}`; \
     a literal brace is `%7B` or `%7D`";
pub const NOT_A_CLAIM: &str =
    " names no claim; write request.auth.claims[name], or [outer][inner] for a nested one";
pub const NOT_A_HEADER: &str = " is not a header name";
pub const HOST_HEADER: &str = " is not supported; use `hosts` or `notHosts` of an operation";
pub const NOT_A_CONDITION: &str = " is not a condition";
/// Of conditions, after the list of those that are known.
pub const ELSEWHERE: &str =
    "; paths, methods, hosts and ports belong in `to`, and whatever else in `cel`";

/// The keys of conditions, with `[name]` where a name belongs.
pub const CONDITIONS: [&str; 14] = [
    "request.headers[name]",
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.trustDomain",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "request.auth.claims[name]",
    "destination.ip",
    "destination.port",
    "connection.sni",
];

/// The conditions that are known, as a sentence has them.
pub fn conditions() -> String {
    let (last, others) = CONDITIONS.split_last().unwrap_or((&"", &[]));
    format!("; known are {} and {last}", others.join(", "))
}
