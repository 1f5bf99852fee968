//! `kith revoke`: no longer valid, and who has confirmed that it is not.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use http::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::ask::{Failure, ask};
use super::{Socket, columns};

/// How long an entry stays unless told otherwise: longer than anything that it revokes should live.
const DEFAULT_DAYS: u64 = 365;

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true)))]
pub struct Arguments {
    /// The principal that is no longer to be trusted: as client and as server, on new and on live connections.
    #[arg(value_name = "SPIFFE_ID", group = "what")]
    principal: Option<String>,
    /// A certificate by its serial number, in hex; needs --trust-domain.
    #[arg(long, value_name = "HEX", group = "what", requires = "trust_domain")]
    serial: Option<String>,
    /// The trust domain that issued the certificate.
    #[arg(long, value_name = "DOMAIN", requires = "serial")]
    trust_domain: Option<String>,
    /// A token by its `jti` claim.
    #[arg(long, value_name = "JTI", group = "what")]
    token_jti: Option<String>,
    /// A token by its SHA-256, in hex.
    #[arg(long, value_name = "HEX", group = "what")]
    token_sha256: Option<String>,
    /// Show what is revoked now.
    #[arg(long, group = "what")]
    list: bool,
    /// Take the revocation back.
    #[arg(long, conflicts_with_all = ["list", "until", "reason"])]
    lift: bool,
    /// Why, for whoever reads the log and the document.
    #[arg(long, value_name = "TEXT", required_unless_present_any = ["lift", "list"])]
    reason: Option<String>,
    /// Until when, in RFC 3339; a year from now unless given.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Wait until every connected sidecar enforces it, at most this many seconds [default: 30 when given without a value].
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "30")]
    wait: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: Socket,
}

pub fn main(arguments: &Arguments) -> ExitCode {
    match run(arguments) {
        Ok(code) => code,
        Err(Failure::Unreachable(why)) => {
            eprintln!("kith revoke: {why}");
            ExitCode::from(2)
        }
        Err(Failure::Refused(why)) => {
            eprintln!("kith revoke: refused: {why}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let socket = arguments.socket.path(|| in_a_cluster(arguments))?;
    if arguments.list {
        let listed = ask(socket, Method::GET, "/revocations", None, Duration::ZERO)?;
        if arguments.json {
            println!("{listed:#}");
        } else {
            list(&listed).iter().for_each(|line| println!("{line}"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (what, name) = what(arguments);
    let wait = arguments.wait.map(Duration::from_secs);
    let mut order = json!({
        "what": what,
        "wait_ms": wait.unwrap_or_default().as_millis() as u64,
    });
    let (path, said) = if arguments.lift {
        ("/lift", format!("Lifted: {name} is trusted again."))
    } else {
        let until = arguments.until.clone().unwrap_or_else(in_a_year);
        order["until"] = until.as_str().into();
        order["reason"] = arguments.reason.as_deref().into();
        ("/revoke", format!("Revoked: {name}, until {until}."))
    };
    let wait_or_none = wait.unwrap_or_default();
    let done = ask(socket, Method::POST, path, Some(&order), wait_or_none)?;
    if arguments.json {
        println!("{done:#}");
    } else {
        println!("{said}");
        if wait.is_some() {
            confirmation(&done)
                .iter()
                .for_each(|line| println!("{line}"));
        } else {
            println!("Not waited for sidecars; `kith status` shows who enforces it.");
        }
    }
    let missing = (done["not_confirmed"].as_array()).is_some_and(|missing| !missing.is_empty());
    Ok(match wait {
        Some(_) if missing => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    })
}

/// The same for whoever has kubectl.
fn in_a_cluster(arguments: &Arguments) -> String {
    const KIND: &str = "revocations.kith.dev";
    if arguments.list {
        return format!("kubectl get {KIND}");
    }
    if arguments.lift {
        return format!(
            "kubectl get {KIND}         # which of them it is\nkubectl delete {KIND}/NAME"
        );
    }
    let (mut spec, name) = what(arguments);
    spec["until"] = arguments.until.clone().unwrap_or_else(in_a_year).into();
    spec["reason"] = arguments.reason.as_deref().into();
    let name = object_name(&name);
    let document = json!({
        "apiVersion": "kith.dev/v1alpha1",
        "kind": "Revocation",
        "metadata": {"name": name},
        "spec": spec,
    });
    let wait = arguments.wait.unwrap_or(30);
    // To create, so that one with that name that revokes something else is not overwritten. JSON is YAML, and one line
    // of it cannot be the end of the document.
    format!(
        "kubectl create -f - <<'END'\n{document}\nEND\n\
         kubectl wait --for=condition=Enforced --timeout={wait}s {KIND}/{name}"
    )
}

/// What is revoked, in the characters that a name may have (RFC 1123 labels, with points between them).
fn object_name(what: &str) -> String {
    const LONGEST: usize = 253;
    let what = what.strip_prefix("spiffe://").unwrap_or(what);
    let mut name = String::new();
    for c in what.chars().take(LONGEST).map(|c| c.to_ascii_lowercase()) {
        match c {
            'a'..='z' | '0'..='9' => name.push(c),
            '.' if name.ends_with(|c: char| c.is_ascii_alphanumeric()) => name.push('.'),
            _ if name.ends_with(|c: char| c.is_ascii_alphanumeric()) => name.push('-'),
            _ => {}
        }
    }
    name.trim_end_matches(['-', '.']).to_owned()
}

/// As the document's spec has it, and for people.
fn what(arguments: &Arguments) -> (Value, String) {
    let given = (
        &arguments.principal,
        &arguments.serial,
        &arguments.token_jti,
        &arguments.token_sha256,
    );
    match given {
        (Some(principal), ..) => (json!({"principal": principal}), principal.clone()),
        (_, Some(serial), ..) => {
            let domain = arguments.trust_domain.clone().unwrap_or_default();
            let name = format!("certificate {serial} of {domain}");
            (
                json!({"certificate": {"trustDomain": domain, "serial": serial}}),
                name,
            )
        }
        (_, _, Some(jti), _) => (
            json!({"token": {"jti": jti}}),
            format!("token with jti {jti}"),
        ),
        (.., sha256) => {
            let sha256 = sha256.clone().unwrap_or_default();
            (
                json!({"token": {"sha256": sha256}}),
                format!("token {sha256}"),
            )
        }
    }
}

fn in_a_year() -> String {
    let until = SystemTime::now() + Duration::from_secs(DEFAULT_DAYS * 24 * 3600);
    let until = OffsetDateTime::from(until).replace_nanosecond(0);
    until
        .ok()
        .and_then(|until| until.format(&Rfc3339).ok())
        .unwrap_or_default()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn confirmation(done: &Value) -> Vec<String> {
    let empty = Vec::new();
    let confirmed = done["confirmed"].as_array().unwrap_or(&empty);
    let missing = done["not_confirmed"].as_array().unwrap_or(&empty);
    let mut lines = vec![String::new()];
    if !confirmed.is_empty() {
        let headings = ["SIDECAR", "PRINCIPAL", "REVISION", "CLOSED", "MS"];
        let mut rows = vec![headings.map(str::to_owned)];
        rows.extend(confirmed.iter().map(|sidecar| {
            ["node", "principal", "revision", "closed", "ms"].map(|key| text(&sidecar[key]))
        }));
        lines.extend(columns(&rows));
    }
    let closed: u64 = confirmed
        .iter()
        .filter_map(|it| it["closed"].as_u64())
        .sum();
    lines.push(format!(
        "{} of {} sidecars enforce it; {closed} live connections were closed.",
        confirmed.len(),
        confirmed.len() + missing.len(),
    ));
    if !missing.is_empty() {
        lines.push(String::new());
        lines.push("NOT CONFIRMED".to_owned());
        let rows: Vec<_> = missing
            .iter()
            .map(|sidecar| ["node", "why"].map(|key| text(&sidecar[key])))
            .collect();
        lines.extend(columns(&rows));
    }
    lines
}

fn list(listed: &Value) -> Vec<String> {
    let empty = Vec::new();
    let revocations = listed["revocations"].as_array().unwrap_or(&empty);
    if revocations.is_empty() {
        return vec!["Nothing is revoked.".to_owned()];
    }
    let mut rows = vec![["WHAT", "UNTIL", "REASON"].map(str::to_owned)];
    rows.extend(revocations.iter().map(|revocation| {
        let what = match (&revocation["principal"], &revocation["certificate"]) {
            (Value::String(principal), _) => principal.clone(),
            (_, Value::Object(certificate)) => format!(
                "certificate {} of {}",
                text(&certificate["serial"]),
                text(&certificate["trustDomain"])
            ),
            _ => format!("token {}", text(&revocation["token"])),
        };
        [
            what,
            text(&revocation["until"]),
            text(&revocation["reason"]),
        ]
    }));
    columns(&rows)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        arguments: Arguments,
    }

    /// What is printed to whoever gives these arguments and no socket.
    fn kubectl(arguments: &[&str]) -> String {
        let arguments = std::iter::once(&"revoke").chain(arguments);
        in_a_cluster(&Command::try_parse_from(arguments).unwrap().arguments)
    }

    #[test]
    fn who_runs_kubernetes_is_told_what_to_apply() {
        let until = "--until=2037-01-31T00:00:00Z";
        let crawler = "spiffe://example.org/ns/shop/sa/crawler";
        assert_eq!(
            kubectl(&[crawler, "--reason=it's out", until, "--wait=60"]),
            "kubectl create -f - <<'END'
{\"apiVersion\":\"kith.dev/v1alpha1\",\"kind\":\"Revocation\",\"metadata\":{\"name\":\"example.org-ns-shop-sa-crawler\"},\"spec\":{\"principal\":\"spiffe://example.org/ns/shop/sa/crawler\",\"reason\":\"it's out\",\"until\":\"2037-01-31T00:00:00Z\"}}
END
kubectl wait --for=condition=Enforced --timeout=60s revocations.kith.dev/example.org-ns-shop-sa-crawler"
        );
        let serial = ["--serial=4B:C3", "--trust-domain=example.org", "--reason=x"];
        let serial = kubectl(&serial);
        assert!(
            serial.contains(r#""name":"certificate-4b-c3-of-example.org""#),
            "{serial}"
        );
        assert!(
            serial.ends_with("--timeout=30s revocations.kith.dev/certificate-4b-c3-of-example.org"),
            "{serial}"
        );
        assert_eq!(kubectl(&["--list"]), "kubectl get revocations.kith.dev");
        let lift = kubectl(&[crawler, "--lift"]);
        assert!(
            lift.ends_with("kubectl delete revocations.kith.dev/NAME"),
            "{lift}"
        );
    }

    #[test]
    fn names_of_objects_are_made_of_what_names_may_have() {
        for (what, name) in [
            ("spiffe://a.b/-x/_y", "a.b-x-y"),
            ("token with jti Ab!.c-", "token-with-jti-ab-c"),
        ] {
            assert_eq!(object_name(what), name);
        }
        assert_eq!(object_name(&"a".repeat(300)).len(), 253);
    }

    #[test]
    fn says_who_confirmed_and_who_did_not() {
        let done = json!({
            "confirmed": [
                {"node": "shop/orders-1", "principal": "spiffe://e.org/ns/shop/sa/orders", "revision": "0123456789ab", "closed": 100, "ms": 14.2},
                {"node": "shop/web-1", "principal": "spiffe://e.org/ns/shop/sa/web", "revision": "0123456789ab", "ms": 9.0},
            ],
            "not_confirmed": [{"node": "shop/old-1", "why": "is not connected"}],
        });
        let expected = "
SIDECAR        PRINCIPAL                         REVISION      CLOSED  MS
shop/orders-1  spiffe://e.org/ns/shop/sa/orders  0123456789ab  100     14.2
shop/web-1     spiffe://e.org/ns/shop/sa/web     0123456789ab  -       9.0
2 of 3 sidecars enforce it; 100 live connections were closed.

NOT CONFIRMED
shop/old-1  is not connected";
        assert_eq!(confirmation(&done).join("\n"), expected);
    }

    #[test]
    fn lists_what_is_revoked() {
        assert_eq!(list(&json!({"revocations": []})), ["Nothing is revoked."]);
        let listed = json!({"revocations": [
            {"principal": "spiffe://e.org/a", "until": "2030-01-01T00:00:00Z", "reason": "stolen"},
            {"certificate": {"trustDomain": "e.org", "serial": "ab"}, "until": "2030-01-01T00:00:00Z", "reason": "lost"},
        ]});
        let expected = "\
WHAT                     UNTIL                 REASON
spiffe://e.org/a         2030-01-01T00:00:00Z  stolen
certificate ab of e.org  2030-01-01T00:00:00Z  lost";
        assert_eq!(list(&listed).join("\n"), expected);
    }
}
