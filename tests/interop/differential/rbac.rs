//! From policies to the rules of Envoy's RBAC filters, in two readings: as Istio's control plane writes them, and with
//! those stricter rules of resources.md that can be said to Envoy in its own language.

use kith_policy::model::{Action, Condition, DefaultAction, Mesh, Operation, Policy, Rule, Source};
use serde_json::{Map, Value, json};

use super::matcher::{
    Side, cidr, claim, header, path, plain, port, quote, regex, string, wildcard,
};

/// How a policy is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Istio,
    /// With rules 1, 2, 7, 8 and 9. Two are left: of a repeated header (4) Envoy can only ask for any value that matches,
    /// and a claim that can't be read (6) is to it one that isn't there.
    Stricter,
}

/// Translates the policies of one workload.
#[derive(Clone, Copy)]
pub(crate) struct Translator<'a> {
    pub(crate) mesh: &'a Mesh,
    pub(crate) reading: Reading,
    /// For the network filter: there is no HTTP.
    pub(crate) opaque: bool,
}

/// One rule of one policy, on its way.
#[derive(Clone, Copy)]
struct Scope<'a> {
    translator: Translator<'a>,
    action: Action,
    /// The policy's own.
    namespace: &'a str,
}

impl Translator<'_> {
    /// The `rules` of one filter after another.
    pub(crate) fn filters(&self, policies: &[Policy]) -> Vec<Value> {
        let mut filters = Vec::new();
        for action in [Action::Deny, Action::Allow] {
            let acting: Vec<&Policy> = policies
                .iter()
                .filter(|policy| policy.action == action)
                .collect();
            let needed = match action {
                Action::Allow => {
                    !acting.is_empty() || self.mesh.default_action == DefaultAction::Deny
                }
                _ => !acting.is_empty(),
            };
            if !needed {
                continue;
            }
            let mut rules = Map::new();
            for policy in acting {
                let scope = Scope {
                    translator: *self,
                    action,
                    namespace: &policy.namespace,
                };
                for (number, rule) in policy.rules.iter().enumerate() {
                    if let Some(rule) = scope.rule(rule) {
                        rules.insert(format!("{}-{number}", policy.name), rule);
                    }
                }
            }
            let action = match action {
                Action::Deny => "DENY",
                _ => "ALLOW",
            };
            filters.push(json!({"action": action, "policies": rules}));
        }
        filters
    }

    /// A local trust domain's name, as a regular expression.
    fn local(&self) -> String {
        let domains: Vec<String> = self.local_domains().map(quote).collect();
        format!("(?:{})", domains.join("|"))
    }

    fn local_domains(&self) -> impl Iterator<Item = &str> {
        [&self.mesh.trust_domain]
            .into_iter()
            .chain(&self.mesh.trust_domain_aliases)
            .map(String::as_str)
    }
}

impl Scope<'_> {
    fn rule(&self, rule: &Rule) -> Option<Value> {
        if self.translator.opaque && self.action == Action::Allow && uses_http(rule) {
            return None;
        }
        let (mut what, mut whom) = (Vec::new(), Vec::new());
        let trust_domains_said =
            rule.when.iter().any(|condition| {
                condition.key == "source.trustDomain" && !condition.values.is_empty()
            }) || !rule.from.is_empty()
                && rule
                    .from
                    .iter()
                    .all(|source| !source.trust_domains.is_empty());
        for condition in &rule.when {
            self.condition(condition, trust_domains_said, &mut what, &mut whom);
        }
        let combine = |side: Side, alternatives: Vec<Vec<Value>>, always: Vec<Value>| {
            if alternatives.is_empty() {
                return vec![side.all(&always)];
            }
            alternatives
                .into_iter()
                .map(|fields| side.all(&[fields, always.clone()].concat()))
                .collect()
        };
        let sources = rule.from.iter().map(|source| self.source(source)).collect();
        let operations = rule
            .to
            .iter()
            .map(|operation| self.operation(operation))
            .collect();
        Some(json!({
            "principals": combine(Side::Principal, sources, whom),
            "permissions": combine(Side::Permission, operations, what),
        }))
    }

    fn source(&self, source: &Source) -> Vec<Value> {
        let mut fields = Vec::new();
        let anywhere = !source.trust_domains.is_empty();
        let mut identity = |values: &[String], negative: &[String], kind: Identity| {
            self.identity(values, negative, kind, &mut fields);
        };
        identity(
            &source.principals,
            &source.not_principals,
            Identity::Principal,
        );
        identity(
            &source.namespaces,
            &source.not_namespaces,
            Identity::Namespace { anywhere },
        );
        identity(
            &source.service_accounts,
            &source.not_service_accounts,
            Identity::Account { anywhere },
        );
        identity(
            &source.trust_domains,
            &source.not_trust_domains,
            Identity::TrustDomain,
        );
        let mut address = |values: &[String], negative: &[String], name: &str| {
            let one = |block: &String| json!({name: cidr(block)});
            plain(Side::Principal, values, negative, one, &mut fields);
        };
        address(&source.ip_blocks, &source.not_ip_blocks, "direct_remote_ip");
        address(
            &source.remote_ip_blocks,
            &source.not_remote_ip_blocks,
            "remote_ip",
        );
        let (subjects, not_subjects) = (&source.request_principals, &source.not_request_principals);
        self.subjects(subjects, not_subjects, &mut fields);
        fields
    }

    /// Both parts of who a token is about (resources.md, requestPrincipals).
    fn subjects(&self, values: &[String], negative: &[String], fields: &mut Vec<Value>) {
        let one = |value: &String| {
            let (issuer, subject) = match value.rsplit_once('/') {
                Some(parts) => parts,
                None if value.ends_with('*') => (value.as_str(), "*"),
                None if value.starts_with('*') => ("*", value.as_str()),
                None => panic!("{value} is no request principal"),
            };
            let issuer = claim(&["iss"], &string("", issuer));
            Side::Principal.all(&[issuer, claim(&["sub"], &string("", subject))])
        };
        self.token(values, negative, one, fields);
    }

    fn token(
        &self,
        values: &[String],
        negative: &[String],
        one: impl Fn(&String) -> Value,
        fields: &mut Vec<Value>,
    ) {
        if self.translator.opaque {
            return;
        }
        plain(Side::Principal, values, negative, one, fields);
        // Rule 7.
        let strict = self.translator.reading == Reading::Stricter;
        if strict && !negative.is_empty() && self.action == Action::Allow {
            fields.push(claim(&["iss"], &regex(".+")));
        }
    }

    fn operation(&self, operation: &Operation) -> Vec<Value> {
        let mut fields = Vec::new();
        let side = Side::Permission;
        plain(
            side,
            &operation.ports,
            &operation.not_ports,
            port,
            &mut fields,
        );
        if self.translator.opaque {
            return fields;
        }
        self.hosts(&operation.hosts, &operation.not_hosts, &mut fields);
        let (methods, not_methods) = (&operation.methods, &operation.not_methods);
        let method = |value: &String| header(":method", value);
        plain(side, methods, not_methods, method, &mut fields);
        plain(
            side,
            &operation.paths,
            &operation.not_paths,
            path,
            &mut fields,
        );
        fields
    }

    fn condition(
        &self,
        condition: &Condition,
        anywhere: bool,
        what: &mut Vec<Value>,
        whom: &mut Vec<Value>,
    ) {
        let Condition {
            key,
            values,
            not_values,
            ..
        } = condition;
        let address = |name: &'static str| move |block: &String| json!({name: cidr(block)});
        let text = |name: &'static str| move |value: &String| json!({name: string("", value)});
        match key.as_str() {
            "source.ip" => plain(
                Side::Principal,
                values,
                not_values,
                address("direct_remote_ip"),
                whom,
            ),
            "remote.ip" => plain(
                Side::Principal,
                values,
                not_values,
                address("remote_ip"),
                whom,
            ),
            "destination.ip" => plain(
                Side::Permission,
                values,
                not_values,
                address("destination_ip"),
                what,
            ),
            "destination.port" => plain(Side::Permission, values, not_values, port, what),
            "connection.sni" => plain(
                Side::Permission,
                values,
                not_values,
                text("requested_server_name"),
                what,
            ),
            "source.principal" => self.identity(values, not_values, Identity::Principal, whom),
            "source.namespace" => {
                self.identity(values, not_values, Identity::Namespace { anywhere }, whom);
            }
            "source.serviceAccount" => {
                self.identity(values, not_values, Identity::Account { anywhere }, whom);
            }
            "source.trustDomain" => self.identity(values, not_values, Identity::TrustDomain, whom),
            "request.auth.principal" => self.subjects(values, not_values, whom),
            key if key.starts_with("request.auth.") => {
                let path: Vec<&str> = match key {
                    "request.auth.audiences" => vec!["aud"],
                    "request.auth.presenter" => vec!["azp"],
                    _ => key
                        .split(['[', ']'])
                        .skip(1)
                        .filter(|part| !part.is_empty())
                        .collect(),
                };
                let one = |value: &String| claim(&path, &string("", value));
                self.token(values, not_values, one, whom);
            }
            key => {
                let name = key
                    .strip_prefix("request.headers[")
                    .and_then(|rest| rest.strip_suffix(']'));
                let name = name.unwrap_or_else(|| panic!("no translation of {key}"));
                let one = |value: &String| header(&name.to_ascii_lowercase(), value);
                if !self.translator.opaque {
                    plain(Side::Permission, values, not_values, one, what);
                }
            }
        }
    }

    fn identity(
        &self,
        values: &[String],
        negative: &[String],
        kind: Identity,
        fields: &mut Vec<Value>,
    ) {
        let side = Side::Principal;
        // Rules 1 and 8 narrow what is for the caller, not what is against it.
        let istio = self.translator.reading == Reading::Istio;
        let deny = self.action == Action::Deny;
        let any = |values: &[String], against_caller: bool| {
            let narrow = !istio && !against_caller;
            let all = values
                .iter()
                .flat_map(|value| self.matchers(kind, value, narrow));
            let authenticated = |name| json!({"authenticated": {"principal_name": name}});
            side.any(&all.map(authenticated).collect::<Vec<_>>())
        };
        if !values.is_empty() {
            fields.push(any(values, deny));
        }
        if !negative.is_empty() {
            fields.push(side.not(&any(negative, !deny)));
            // Rule 2, and with it what rules 1 and 8 say has no namespace.
            if self.translator.reading == Reading::Stricter && self.action == Action::Allow {
                let everybody = match kind {
                    Identity::Principal | Identity::TrustDomain => ".+".to_owned(),
                    Identity::Namespace { anywhere } | Identity::Account { anywhere } => {
                        self.workload(anywhere, "[^/]+", "[^/]+")
                    }
                };
                fields.push(json!({"authenticated": {"principal_name": regex(&everybody)}}));
            }
        }
    }

    /// What a URI SAN must be, one way or another.
    fn matchers(&self, kind: Identity, value: &str, narrow: bool) -> Vec<Value> {
        match kind {
            Identity::Principal => self.principal(value, narrow),
            Identity::TrustDomain => {
                let some = wildcard(value, "[^/]*", "[^/]+");
                let mut all = vec![regex(&format!("spiffe://{some}/.*"))];
                let mut local = self.translator.local_domains();
                if !narrow && local.any(|name| means(value, name)) {
                    all.push(regex(&format!("spiffe://{}/.*", self.translator.local())));
                }
                all
            }
            Identity::Namespace { anywhere } if narrow => {
                let namespace = wildcard(value, "[^/]*", "[^/]+");
                vec![regex(&self.workload(anywhere, &namespace, "[^/]+"))]
            }
            Identity::Namespace { .. } => {
                vec![regex(&format!(".*/ns/{}/.*", wildcard(value, ".*", ".*")))]
            }
            Identity::Account { anywhere } => {
                let (part, whole) = if narrow {
                    ("[^/]*", "[^/]+")
                } else {
                    (".*", ".*")
                };
                let (namespace, account) = match value.split_once('/') {
                    Some((namespace, account)) => (
                        wildcard(namespace, part, whole),
                        wildcard(account, part, whole),
                    ),
                    None if value == "*" => (whole.to_owned(), whole.to_owned()),
                    None => (quote(self.namespace), wildcard(value, part, whole)),
                };
                if narrow {
                    vec![regex(&self.workload(anywhere, &namespace, &account))]
                } else {
                    let spread = format!("spiffe://.+/ns/{namespace}/(?:.+/)?sa/{account}(?:/.+)?");
                    vec![regex(&spread)]
                }
            }
        }
    }

    fn principal(&self, value: &str, narrow: bool) -> Vec<Value> {
        let value = value.strip_prefix("spiffe://").unwrap_or(value);
        if let Some(path) = value.strip_prefix("*/").filter(|_| narrow) {
            return vec![regex(&format!("spiffe://[^/]+/{}", quote(path)))];
        }
        // One name of the local trust domain stands for all, in Istio and where it is against the caller.
        let of_local = value.split_once('/').filter(|(domain, _)| {
            let mut local = self.translator.local_domains();
            *domain == "cluster.local" || !narrow && local.any(|name| name == *domain)
        });
        match of_local.map(|(_, path)| path) {
            Some(path) => self
                .translator
                .local_domains()
                .map(|domain| string("spiffe://", &format!("{domain}/{path}")))
                .collect(),
            None => vec![string("spiffe://", value)],
        }
    }

    /// The SPIFFE ID of a workload (rules 1 and 8), as a regular expression.
    fn workload(&self, anywhere: bool, namespace: &str, account: &str) -> String {
        let domain = if anywhere {
            "[^/]+".to_owned()
        } else {
            self.translator.local()
        };
        format!("spiffe://{domain}/ns/{namespace}/sa/{account}")
    }

    fn hosts(&self, values: &[String], negative: &[String], fields: &mut Vec<Value>) {
        let strict = self.translator.reading == Reading::Stricter;
        let any = |values: &[String], lenient: bool| {
            let one = |value: &String| {
                if value == "*" {
                    return json!({"header": {"name": ":authority", "present_match": true}});
                }
                let (name, port) = match value.split_once(':') {
                    Some((name, "*")) => (name, ":[0-9]+"),
                    Some((name, port)) => (name, &*format!(":{port}")),
                    None => (value.as_str(), ""),
                };
                let port = match port {
                    "" => "(?::[0-9]+)?".to_owned(),
                    // Rule 9: a host without port may be the one that is meant.
                    port if lenient => format!("(?:{port})?"),
                    port => port.to_owned(),
                };
                let name = wildcard(name, "[^:]*", "[^:]+");
                let matcher = regex(&format!("(?i){name}{port}"));
                json!({"header": {"name": ":authority", "string_match": matcher}})
            };
            Side::Permission.any(&values.iter().map(one).collect::<Vec<_>>())
        };
        // Uncertain is a match in a DENY and in what an ALLOW excludes.
        let deny = self.action == Action::Deny;
        if !values.is_empty() {
            fields.push(any(values, strict && deny));
        }
        if !negative.is_empty() {
            fields.push(Side::Permission.not(&any(negative, strict && !deny)));
        }
    }
}

#[derive(Clone, Copy)]
enum Identity {
    Principal,
    /// `anywhere`: of any trust domain.
    Namespace {
        anywhere: bool,
    },
    Account {
        anywhere: bool,
    },
    TrustDomain,
}

fn uses_http(rule: &Rule) -> bool {
    let in_operation = |operation: &Operation| {
        [
            &operation.hosts,
            &operation.not_hosts,
            &operation.methods,
            &operation.not_methods,
            &operation.paths,
            &operation.not_paths,
        ]
        .iter()
        .any(|values| !values.is_empty())
    };
    let in_source = |source: &Source| {
        !source.request_principals.is_empty() || !source.not_request_principals.is_empty()
    };
    rule.from.iter().any(in_source)
        || rule.to.iter().any(in_operation)
        || rule
            .when
            .iter()
            .any(|condition| condition.key.starts_with("request."))
}

/// A value of a policy, `*` first, last or alone.
pub(crate) fn means(value: &str, name: &str) -> bool {
    match (value.strip_prefix('*'), value.strip_suffix('*')) {
        (Some(end), _) => name.ends_with(end),
        (None, Some(start)) => name.starts_with(start),
        (None, None) => value == name,
    }
}
