//! A file of policy tests: resources.md, "kith policy test".

use std::collections::BTreeMap;
use std::path::Path;

use kith_control::Problem;
use kith_control::check::Warning;
use kith_control::yaml::{Loaded, Node, load_trees, trees};
use kith_proxy::rehearse::Sidecar;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};

use super::attempt::{Attempt, ConnectionStated, RequestStated};
use super::expect::Expect;
use super::in_force::{World, about, not_policies, read};

/// One document of a file.
pub(super) struct Suite {
    pub(super) sidecar: Sidecar,
    pub(super) tests: Vec<Test>,
}

pub(super) struct Test {
    pub(super) name: String,
    /// Of its entry in the file.
    pub(super) line: u64,
    pub(super) connection: ConnectionStated,
    pub(super) request: Option<RequestStated>,
    pub(super) attempt: Attempt,
    pub(super) expect: Expect,
}

/// Everything in a file.
pub(super) struct File {
    pub(super) suites: Vec<Suite>,
    pub(super) warnings: Vec<Warning>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Stated {
    #[serde(default = "trust_domain")]
    trust_domain: Value,
    #[serde(default)]
    trust_domain_aliases: Vec<Value>,
    #[serde(default = "root_namespace")]
    root_namespace: String,
    #[serde(default = "default_action")]
    default_action: Value,
    #[serde(default)]
    trusted_forwarded_hops: u32,
    workload: WorkloadStated,
    #[serde(default, rename = "policies")]
    _policies: IgnoredAny,
    #[serde(default)]
    policy_files: Vec<String>,
    #[serde(default)]
    tests: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WorkloadStated {
    namespace: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default = "no_ports")]
    ports: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TestStated {
    name: String,
    #[serde(default)]
    connection: ConnectionStated,
    request: Option<RequestStated>,
    expect: Expect,
}

fn trust_domain() -> Value {
    "cluster.local".into()
}

fn root_namespace() -> String {
    "kith-system".to_owned()
}

fn default_action() -> Value {
    "DENY".into()
}

fn no_ports() -> Value {
    json!([])
}

/// # Errors
/// Everything wrong with the file, and with the files that it names.
pub(super) fn load(file: &Path) -> Result<File, Vec<Problem>> {
    let text = read(file)?;
    let mut loaded = File {
        suites: Vec::new(),
        warnings: Vec::new(),
    };
    let mut problems = Vec::new();
    let documents = trees(file, &text)?;
    if documents.is_empty() {
        return Err(vec![about(file, "is empty".to_owned())]);
    }
    for document in documents {
        match Reader::new(file, document).suite() {
            Ok((suite, warnings)) => {
                loaded.suites.push(suite);
                loaded.warnings.extend(warnings);
            }
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() {
        Ok(loaded)
    } else {
        Err(problems)
    }
}

/// One document, while it is read.
struct Reader<'a> {
    file: &'a Path,
    document: Node,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    fn new(file: &'a Path, document: Node) -> Self {
        Self {
            file,
            document,
            problems: Vec::new(),
        }
    }

    fn suite(mut self) -> Result<(Suite, Vec<Warning>), Vec<Problem>> {
        if !self.document.is_map() {
            let message = "expected a document with `workload`, `policies` and `tests`";
            return Err(vec![self.problem("", message.to_owned())]);
        }
        if self.document.get("kind").is_some() {
            let message = "this belongs into a folder of policies and is no file of tests: name it in `policyFiles` of one";
            return Err(vec![self.problem("kind", message.to_owned())]);
        }
        let stated: Stated = match self.typed("", self.document.to_json()) {
            Ok(stated) => stated,
            Err(problem) => return Err(vec![problem]),
        };
        let tests = self.tests(stated.tests);
        let mut policies = self.policy_files(&stated.policy_files);
        let world = World {
            mesh: json!({
                "trustDomain": stated.trust_domain,
                "trustDomainAliases": stated.trust_domain_aliases,
                "rootNamespace": stated.root_namespace,
                "defaultAction": stated.default_action,
                "trustedForwardedHops": stated.trusted_forwarded_hops,
            }),
            namespace: stated.workload.namespace,
            labels: stated.workload.labels,
            ports: stated.workload.ports,
        };
        policies.extend(self.inline_policies());
        if !self.problems.is_empty() {
            // What the mesh is like may be wrong too, whatever the policies.
            if let Err(found) = world.sidecar(self.file, Vec::new()) {
                self.locate(found);
            }
            return Err(self.problems);
        }
        match world.sidecar(self.file, policies) {
            Ok((sidecar, warnings)) => Ok((Suite { sidecar, tests }, warnings)),
            Err(found) => {
                self.locate(found);
                Err(self.problems)
            }
        }
    }

    fn tests(&mut self, stated: Vec<Value>) -> Vec<Test> {
        let mut tests = Vec::with_capacity(stated.len());
        for (index, value) in stated.into_iter().enumerate() {
            let at = format!("tests[{index}]");
            let stated: TestStated = match self.typed(&at, value) {
                Ok(stated) => stated,
                Err(problem) => {
                    self.problems.push(problem);
                    continue;
                }
            };
            let TestStated {
                name,
                connection,
                request,
                expect,
            } = stated;
            match Attempt::new(&connection, request.as_ref()) {
                Ok(attempt) => tests.push(Test {
                    name,
                    line: self.document.line_of(&at),
                    connection,
                    request,
                    attempt,
                    expect,
                }),
                Err(mistakes) => {
                    let problems = mistakes
                        .into_iter()
                        .map(|(field, message)| self.problem(&format!("{at}.{field}"), message));
                    let problems: Vec<_> = problems.collect();
                    self.problems.extend(problems);
                }
            }
        }
        tests
    }

    fn policy_files(&mut self, files: &[String]) -> Vec<Loaded> {
        let folder = self.file.parent().unwrap_or(Path::new(""));
        let mut policies = Vec::with_capacity(files.len());
        for (index, name) in files.iter().enumerate() {
            let path = folder.join(name);
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) => {
                    let message = format!("`{}` cannot be read: {error}", path.display());
                    let problem = self.problem(&format!("policyFiles[{index}]"), message);
                    self.problems.push(problem);
                    continue;
                }
            };
            let mut documents = match trees(&path, &text) {
                Ok(documents) => documents,
                Err(found) => {
                    self.problems.extend(found);
                    continue;
                }
            };
            // They often stand beside the policies for them, and a test states its own.
            documents.retain(|document| {
                let kind = document.get("kind").and_then(Node::as_str);
                !matches!(kind, Some("Workload" | "Service"))
            });
            self.add_policies(&path, documents, &mut policies);
        }
        policies
    }

    /// The last to be read: from then on the document is without them.
    fn inline_policies(&mut self) -> Vec<Loaded> {
        let mut policies = Vec::new();
        if !self.document.get("policies").is_some_and(Node::is_list) {
            let absent = self
                .document
                .get("policies")
                .is_none_or(|it| it.to_json().is_null());
            if !absent {
                let message = "expected a list of policies".to_owned();
                let problem = self.problem("policies", message);
                self.problems.push(problem);
            }
            return policies;
        }
        let documents = self.document.take_list("policies");
        let file = self.file;
        self.add_policies(file, documents, &mut policies);
        policies
    }

    fn add_policies(&mut self, file: &Path, documents: Vec<Node>, policies: &mut Vec<Loaded>) {
        match load_trees(file, documents) {
            Ok(loaded) => {
                self.problems.extend(not_policies(&loaded));
                policies.push(loaded);
            }
            Err(found) => self.problems.extend(found),
        }
    }

    fn typed<T: DeserializeOwned>(&self, at: &str, value: Value) -> Result<T, Problem> {
        serde_path_to_error::deserialize(value).map_err(|error| {
            let path = match (at, error.path().to_string().as_str()) {
                (at, ".") => at.to_owned(),
                ("", path) => path.to_owned(),
                (at, path) => format!("{at}.{path}"),
            };
            self.problem(&path, error.inner().to_string())
        })
    }

    fn problem(&self, field: &str, message: String) -> Problem {
        Problem {
            file: self.file.to_path_buf(),
            line: self.document.line_of(field),
            field: field.to_owned(),
            message,
        }
    }

    /// Problems of this file without a line get the one of their field.
    fn locate(&mut self, found: Vec<Problem>) {
        for mut problem in found {
            if problem.line == 0 && problem.file == self.file {
                problem.line = self.document.line_of(&problem.field);
            }
            self.problems.push(problem);
        }
    }
}
