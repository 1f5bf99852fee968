//! The policy reference, `deploy/POLICIES.md`, says what is so: its examples load, its tables are what the engine says.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::SystemTime;

use kith_control::check::check;
use kith_control::jwks::KeySets;
use kith_control::resolve::resolve;
use kith_control::yaml::{Loaded, load_str};
use kith_policy::cel::Program;
use kith_policy::{
    Action, Condition, Connection, DefaultAction, EncodedSlash, Mesh, NoHeaders, Operation, Policy,
    PolicySet, Principal, Reason, Request, Rule, Source, Token, ValidPolicy, normalise_host,
    normalise_target,
};
use serde_json::Map;

use crate::readme::program;

const NAME: &str = "POLICIES.md";

fn reference() -> String {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    std::fs::read_to_string(deploy.join("deploy").join(NAME)).unwrap()
}

/// The fenced blocks of one language.
fn blocks(language: &str) -> Vec<String> {
    let (text, open) = (reference(), format!("```{language}"));
    let mut blocks: Vec<String> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match line {
            "```" => inside = false,
            line if line == open => {
                inside = true;
                blocks.push(String::new());
            }
            line if inside => {
                let block = blocks.last_mut().unwrap();
                block.push_str(line);
                block.push('\n');
            }
            _ => {}
        }
    }
    assert!(!blocks.is_empty(), "no block of {language}");
    blocks
}

/// The rows of every table with such a heading.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let text = reference();
    let mut rows = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match line
            .strip_prefix('|')
            .and_then(|line| line.strip_suffix('|'))
        {
            None => inside = false,
            Some(_) if line.starts_with(heading) => inside = true,
            Some(cells) if inside && !cells.starts_with("---") => {
                let cells = cells.split('|').map(|cell| cell.trim().to_owned());
                rows.push(cells.collect());
            }
            Some(_) => {}
        }
    }
    assert!(!rows.is_empty(), "no table {heading}");
    rows
}

/// What stands in a cell as code.
fn codes(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// In front of the examples and fragments: they are for this mesh.
const MESH: &str = "{apiVersion: kith.dev/v1alpha1, kind: MeshConfig, metadata: {name: mesh}, spec: {trustDomain: example.org}}";

/// Everything wrong with a document of this kind, one problem a line.
fn problems(kind: &str, spec: &str) -> String {
    let namespace = match kind {
        "MeshConfig" | "Revocation" => "",
        _ => "namespace: shop, ",
    };
    let mesh = if kind == "MeshConfig" { "" } else { MESH };
    let text = format!(
        "{mesh}\n---\napiVersion: kith.dev/v1alpha1\nkind: {kind}\nmetadata: {{{namespace}name: x}}\nspec: {spec}\n"
    );
    let loaded = load_str(Path::new(NAME), &text);
    let found = loaded.and_then(|loaded| resolve(&loaded, &KeySets::default()));
    let found = found.err().unwrap_or_default();
    let lines = found
        .iter()
        .map(|it| format!("{}: {}\n", it.field, it.message));
    lines.collect()
}

/// The names that a message lists in backticks, behind some words.
fn listed(message: &str, behind: &str) -> BTreeSet<String> {
    let (_, names) = message
        .split_once(behind)
        .unwrap_or_else(|| panic!("no {behind:?} in {message:?}"));
    codes(names).into_iter().map(str::to_owned).collect()
}

fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

#[test]
fn the_examples_are_one_folder_that_is_served_without_a_warning() {
    let blocks = blocks("yaml");
    let examples = blocks
        .iter()
        .filter(|block| !block.contains("\ntests:"))
        .map(|block| load_str(Path::new(NAME), block).unwrap_or_else(|found| panic!("{found:?}")));
    let folder = Loaded::join(Path::new(NAME), examples);
    let resolved = resolve(&folder, &KeySets::default()).unwrap();
    let counts = resolved.catalog.counts;
    assert!(counts.authorization_policies >= 5, "{counts:?}");
    assert!(counts.revocations >= 1, "{counts:?}");
    let warnings = check(&folder, SystemTime::now());
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn what_is_said_to_be_refused_is_refused_in_these_words() {
    let rows = rows("| kind | spec | refused with |");
    assert!(rows.len() >= 15, "{}", rows.len());
    for row in rows {
        let [kind, spec, message] = row.as_slice() else {
            panic!("{row:?}");
        };
        let spec = spec.trim_matches('`');
        let found = problems(kind, spec);
        assert!(found.contains(message), "{spec}: {found:?}");
    }
}

#[test]
fn every_field_of_every_kind_is_there() {
    let known =
        |kind: &str, spec: &str| listed(&problems(kind, spec), "unknown field `zzz`, expected");
    // Of a list like `| Workload | … |`, with the kind said once.
    let mut kind = String::new();
    let mut of_kinds: Vec<(String, String)> = Vec::new();
    for row in rows("| kind | field | default | meaning |") {
        if !row[0].is_empty() {
            kind.clone_from(&row[0]);
        }
        let fields = codes(&row[1]).into_iter().map(|field| {
            let field = field.split(['[', '.']).next().unwrap_or_default();
            (kind.clone(), field.to_owned())
        });
        of_kinds.extend(fields.filter(|(_, field)| !field.is_empty()));
    }
    for (kind, spec) in [
        ("MeshConfig", "{trustDomain: example.org, zzz: 1}"),
        ("Workload", "{addresses: [10.0.0.1], zzz: 1}"),
        ("Service", "{selector: {a: b}, ports: [], zzz: 1}"),
    ] {
        let told = of_kinds.iter().filter(|(of, _)| of == kind);
        let told: BTreeSet<String> = told.map(|(_, field)| field.clone()).collect();
        assert_eq!(told, known(kind, spec), "{kind}");
    }

    let first = |rows: &[Vec<String>]| names(rows.iter().flat_map(|row| codes(&row[0])));
    let affirmative = |fields: BTreeSet<String>| {
        let fields = fields.into_iter();
        fields
            .filter(|it| !it.starts_with("not"))
            .collect::<BTreeSet<_>>()
    };
    let rule = |part: &str| format!("{{rules: [{part}]}}");
    let compared = first(&rows("| field, and its `not…` | compared with | value |"));
    let mut known_there = affirmative(known(
        "AuthorizationPolicy",
        &rule("{from: [{source: {zzz: 1}}]}"),
    ));
    known_there.extend(affirmative(known(
        "AuthorizationPolicy",
        &rule("{to: [{operation: {zzz: 1}}]}"),
    )));
    assert_eq!(compared, known_there);

    let mut of_tokens = known("RequestAuthentication", "{jwtRules: [{zzz: 1}]}");
    // The other spelling of `jwksUri`.
    assert!(of_tokens.remove("jwks_uri"));
    assert_eq!(first(&rows("| field of a `jwtRules` entry |")), of_tokens);
    assert_eq!(
        first(&rows("| field | meaning |")),
        known("Revocation", "{zzz: 1}")
    );
    assert_eq!(
        first(&rows("| mode | mTLS")),
        listed(
            &problems("PeerAuthentication", "{mtls: {mode: zzz}}"),
            "one of"
        )
    );
}

fn policy(rule: Rule) -> Policy {
    Policy {
        namespace: "shop".into(),
        name: "example".into(),
        rules: vec![rule],
        ..Policy::default()
    }
}

/// Does a policy with this one value match the subject? A peer's SPIFFE ID, a host, a path, or issuer and subject.
fn matches(action: Action, field: &str, value: &str, subject: &str) -> bool {
    let values = vec![value.to_owned()];
    let (mut source, mut operation) = (Source::default(), Operation::default());
    let (mut peer, mut host, mut path, mut token) = (None, "orders.shop", "/", None);
    match field {
        "hosts" => (operation.hosts, host) = (values, subject),
        "paths" => (operation.paths, path) = (values, subject),
        "requestPrincipals" => {
            source.request_principals = values;
            token = Some(subject.split_once(' ').unwrap());
        }
        of_peer => {
            peer = Some(Principal::parse(subject).unwrap());
            let field = match of_peer {
                "principals" => &mut source.principals,
                "namespaces" => &mut source.namespaces,
                "serviceAccounts" => &mut source.service_accounts,
                "trustDomains" => &mut source.trust_domains,
                other => panic!("no example can be asked about {other}"),
            };
            *field = values;
        }
    }
    let mut rule = Rule::default();
    match operation == Operation::default() {
        true => rule.from.push(source),
        false => rule.to.push(operation),
    }
    let valid = ValidPolicy::new(Policy {
        action,
        ..policy(rule)
    });
    let mesh = Mesh {
        default_action: match action {
            Action::Allow => DefaultAction::Deny,
            Action::Deny | Action::Audit => DefaultAction::Allow,
        },
        trust_domain: "example.org".into(),
        trust_domain_aliases: vec!["old.example".into()],
    };
    let set = PolicySet::compile(&mesh, "1", &[Arc::new(valid.unwrap())]);
    let source: IpAddr = [10, 0, 0, 1].into();
    let claims = Map::new();
    let decision = set.decide(
        &Connection {
            peer: peer.as_ref(),
            source,
            remote: Some(source),
            destination: ([10, 0, 0, 2], 8080).into(),
            sni: None,
        },
        Some(&Request {
            method: "GET",
            host,
            path,
            headers: &NoHeaders,
            token: token.map(|(issuer, subject)| Token {
                issuer,
                subject,
                claims: &claims,
            }),
        }),
    );
    decision.policy.is_some()
}

#[test]
fn patterns_match_what_the_table_says_and_nothing_else() {
    for row in rows("| field | value | matches | does not match |") {
        let (field, value) = (codes(&row[0])[0], codes(&row[1])[0]);
        for (subjects, expected) in [(&row[2], true), (&row[3], false)] {
            let subjects = codes(subjects);
            assert!(!subjects.is_empty(), "{row:?}");
            for subject in subjects {
                assert_eq!(
                    matches(Action::Allow, field, value, subject),
                    expected,
                    "{field}: {value} of {subject}"
                );
            }
        }
    }
}

#[test]
fn a_deny_reads_widely_who_is_meant() {
    for row in rows("| field | value | a DENY matches too |") {
        let (field, value) = (codes(&row[0])[0], codes(&row[1])[0]);
        for subject in codes(&row[2]) {
            let asked =
                [Action::Allow, Action::Deny].map(|action| matches(action, field, value, subject));
            assert_eq!(asked, [false, true], "{field}: {value} of {subject}");
        }
    }
}

#[test]
fn conditions_are_those_that_the_engine_knows() {
    let nothing = Condition {
        key: "nothing".into(),
        values: vec!["x".into()],
        ..Condition::default()
    };
    let errors = ValidPolicy::new(policy(Rule {
        when: vec![nothing],
        ..Rule::default()
    }));
    let message = errors.unwrap_err().remove(0).message;
    let (_, known) = message.split_once("known are ").unwrap();
    let (known, _) = known.split_once("; paths").unwrap();
    let known = known.split(", ").flat_map(|part| part.split(" and "));
    let rows = rows("| key | compared with | value |");
    let told = rows.iter().flat_map(|row| codes(&row[0]));
    assert_eq!(names(told), names(known));
}

#[test]
fn cel_attributes_are_those_that_the_compiler_knows() {
    let rows = rows("| attribute | type | absent when |");
    let told: BTreeSet<String> = names(rows.iter().flat_map(|row| codes(&row[0])));
    for attribute in &told {
        let asked = Program::compile(&format!("has({attribute})"));
        assert!(asked.is_ok(), "{attribute}: {asked:?}");
    }
    // What begins alike is listed when something is asked for that is not there.
    let mut known = BTreeSet::new();
    for root in ["source", "remote", "destination", "connection", "request"] {
        let error = Program::compile(&format!("has({root}.zzzzzzzzzzzz)")).unwrap_err();
        known.extend(listed(&error.message, "there is"));
    }
    assert_eq!(told, known);
}

#[test]
fn cel_examples_compile() {
    let examples = blocks("cel").concat();
    for expression in examples.lines() {
        Program::compile(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    }
}

#[test]
fn paths_and_hosts_become_what_the_tables_say() {
    let check = |received: &str, expected: &str, got: Result<String, String>| {
        let expected = match expected.strip_prefix("refused: ") {
            Some(why) => Err(why.to_owned()),
            None => Ok(codes(expected)[0].to_owned()),
        };
        assert_eq!(got, expected, "{received}");
    };
    for row in rows("| path received |") {
        let received = codes(&row[0])[0];
        let got = normalise_target("GET", received.as_bytes(), EncodedSlash::Refuse);
        let got = got.map(|target| target.path.into_owned());
        check(received, &row[1], got.map_err(|error| error.to_string()));
    }
    for row in rows("| host received |") {
        let received = codes(&row[0])[0];
        let got = normalise_host(received).map(|host| host.name.into_owned());
        check(received, &row[1], got.map_err(|error| error.to_string()));
    }
}

#[test]
fn every_reason_is_there_with_its_next_step() {
    let rows = rows("| code | status | meaning | next step |");
    let told = rows.iter().map(|row| (codes(&row[0])[0], row[3].as_str()));
    let known = Reason::ALL
        .iter()
        .map(|reason| (reason.as_str(), reason.next_step()));
    assert_eq!(told.collect::<Vec<_>>(), known.collect::<Vec<_>>());
}

/// A folder of its own, gone with it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The words of a command; what is between single quotes is one.
fn words(command: &str) -> Vec<&str> {
    let parts = command.split('\'').enumerate();
    let words = parts.flat_map(|(index, part)| match index % 2 {
        0 => part.split_whitespace().collect(),
        _ => vec![part],
    });
    words.collect()
}

#[test]
fn what_is_typed_prints_what_is_shown() {
    let folder = format!("kith-documents-{}", std::process::id());
    let folder = Folder(std::env::temp_dir().join(folder));
    std::fs::create_dir_all(&folder.0).unwrap();
    for block in blocks("yaml") {
        if let Some((name, _)) = block
            .strip_prefix("# ")
            .and_then(|block| block.split_once('\n'))
        {
            std::fs::write(folder.0.join(name), &block).unwrap();
        }
    }
    let mut ran = 0;
    for block in blocks("console") {
        let (command, expected) = block.split_once('\n').unwrap();
        let words = words(command);
        let ["$", "kith", arguments @ ..] = words.as_slice() else {
            panic!("no test runs {command:?}");
        };
        let output = Command::new(program("kith"))
            .args(arguments)
            .current_dir(&folder.0)
            .output()
            .unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {complaint}");
        assert_eq!(complaint, "", "{command}");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            expected,
            "{command}"
        );
        ran += 1;
    }
    assert!(ran >= 2, "only {ran}");
}
