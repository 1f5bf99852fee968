//! `kith policy explain`.

mod json;
mod text;
mod unverified;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kith_control::Problem;
use kith_proxy::rehearse::Sidecar;
use kith_proxy::snapshot::Protocol as Wire;

use super::attempt::{self, Attempt, ConnectionStated, OneOrMore, Protocol, RequestStated};
use super::in_force::{about, in_folder};
use super::suite::{self, Suite};
use super::{print, refuse};
use unverified::{Answer, Unverified};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A folder of policies (with --workload), or a file of tests.
    #[arg(value_name = "DIR|FILE")]
    path: PathBuf,
    /// The workload of the folder that is called.
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with = "test")]
    workload: Option<String>,
    /// The test of the file to start from.
    #[arg(long, value_name = "NAME")]
    test: Option<String>,
    /// The SPIFFE ID of the caller; `none` for plaintext.
    #[arg(long, value_name = "SPIFFE-ID")]
    peer: Option<String>,
    /// Where the connection comes from.
    #[arg(long, value_name = "IP[:PORT]")]
    source: Option<String>,
    /// The workload's own address and port; of a folder, what the workload declares first.
    #[arg(long, value_name = "IP:PORT")]
    destination: Option<String>,
    /// The server name of the TLS handshake.
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// Opaque bytes instead of an HTTP request.
    #[arg(long, conflicts_with_all = ["method", "path_", "host", "header", "jwt"])]
    tcp: bool,
    #[arg(long)]
    method: Option<String>,
    /// The request target, as sent.
    #[arg(long = "path", id = "path_", value_name = "PATH")]
    target: Option<String>,
    #[arg(long)]
    host: Option<String>,
    /// A header; may be given often.
    #[arg(long, value_name = "NAME=VALUE")]
    header: Vec<String>,
    /// A token: `{"iss": …, "sub": …, "aud": …, "claims": {…}}`.
    #[arg(long, value_name = "JSON")]
    jwt: Option<String>,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
}

/// Whose sidecar is asked, and what a test of the file says it is asked.
struct Start {
    sidecar: Sidecar,
    connection: ConnectionStated,
    request: Option<RequestStated>,
}

pub(super) fn main(mut arguments: Arguments) -> ExitCode {
    let as_json = arguments.json;
    match explain(&mut arguments) {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(problems) => refuse(problems, as_json),
    }
}

fn explain(arguments: &mut Arguments) -> Result<String, Vec<Problem>> {
    let path = arguments.path.clone();
    let mut start = start(arguments)?;
    let stated = arguments.stated(&mut start);
    let (connection, request) = stated.map_err(|message| vec![about(&path, message)])?;
    let mut attempt = Attempt::new(&connection, request.as_ref()).map_err(|mistakes| {
        let problems = mistakes.into_iter().map(|(field, message)| {
            let message = format!("{}: {message}", flag(&field));
            about(&path, message)
        });
        problems.collect::<Vec<_>>()
    })?;
    // A test says of its token that it is verified. Of a folder, its documents say whether it is.
    let unverified = match arguments.workload {
        Some(_) => Unverified::take(&mut attempt, &start.sidecar),
        None => None,
    };
    let answer = match &unverified {
        Some(unverified) => unverified.answer(&attempt, &start.sidecar),
        None => Answer {
            outcome: attempt.ask(&start.sidecar),
            without: None,
        },
    };
    if arguments.json {
        let explained = json::of(&answer, unverified.as_ref(), &start.sidecar);
        return Ok(format!("{explained:#}\n"));
    }
    let marks = match std::io::stdout().is_terminal() {
        true => text::MARKS,
        false => text::WORDS,
    };
    let unverified = unverified.as_ref();
    Ok(text::of(
        &attempt,
        unverified,
        &answer,
        &start.sidecar,
        marks,
    ))
}

fn start(arguments: &Arguments) -> Result<Start, Vec<Problem>> {
    let path = &arguments.path;
    let nothing = |sidecar| Start {
        sidecar,
        connection: ConnectionStated::default(),
        request: None,
    };
    if let Some(workload) = &arguments.workload {
        let sidecar = in_folder(path, workload)?;
        let mut connection = ConnectionStated::default();
        // Who asks about a workload means it, and the port that it serves unless another is given.
        if let Some(address) = sidecar.workload().addresses.first() {
            let declared = sidecar.workload().ports.iter();
            let declared = declared.filter_map(|(number, port)| Some((*number, port.protocol?)));
            // One that carries what is asked, if there is one.
            let carries_http = |protocol| matches!(protocol, Wire::Http1 | Wire::Http2);
            let port = declared
                .map(|(number, protocol)| (carries_http(protocol) == arguments.tcp, number))
                .min()
                .map(|(_, number)| number);
            let port = port.unwrap_or(attempt::DESTINATION_PORT);
            connection.destination = SocketAddr::new(*address, port).to_string();
        }
        return Ok(Start {
            sidecar,
            connection,
            request: None,
        });
    }
    if path.is_dir() {
        let message = "is a folder: say with --workload who is called";
        return Err(vec![about(path, message.to_owned())]);
    }
    let suites = suite::load(path)?.suites;
    match &arguments.test {
        Some(name) => named(path, suites, name),
        None => match <[Suite; 1]>::try_from(suites) {
            Ok([suite]) => Ok(nothing(suite.sidecar)),
            Err(_) => {
                let message = "has several documents: say with --test which one is meant";
                Err(vec![about(path, message.to_owned())])
            }
        },
    }
}

fn named(path: &Path, suites: Vec<Suite>, name: &str) -> Result<Start, Vec<Problem>> {
    let mut lines = Vec::new();
    let mut start = None;
    for suite in suites {
        let mut tests = suite.tests.into_iter().filter(|test| test.name == name);
        let first = tests.next();
        lines.extend(first.iter().map(|test| test.line));
        lines.extend(tests.map(|test| test.line));
        if let Some(test) = first {
            start = Some(Start {
                sidecar: suite.sidecar,
                connection: test.connection,
                request: test.request,
            });
        }
    }
    match (start, lines.as_slice()) {
        (Some(start), [_]) => Ok(start),
        (None, _) => Err(vec![about(path, format!("has no test `{name}`"))]),
        (Some(_), lines) => {
            let lines: Vec<_> = lines.iter().map(u64::to_string).collect();
            let message = format!(
                "has several tests `{name}`, at lines {}: give them names of their own",
                lines.join(", ")
            );
            Err(vec![about(path, message)])
        }
    }
}

impl Arguments {
    /// What the flags say, over what the test says.
    fn stated(
        &mut self,
        start: &mut Start,
    ) -> Result<(ConnectionStated, Option<RequestStated>), String> {
        let mut connection = std::mem::take(&mut start.connection);
        match self.peer.take() {
            Some(peer) if peer == "none" => connection.peer = None,
            Some(peer) => connection.peer = Some(peer),
            None => {}
        }
        replace(&mut connection.source, self.source.take());
        replace(&mut connection.destination, self.destination.take());
        connection.sni = self.sni.take().or(connection.sni);
        if self.tcp {
            connection.protocol = Protocol::Tcp;
            return Ok((connection, None));
        }
        let asks_http = self.method.is_some()
            || self.target.is_some()
            || self.host.is_some()
            || self.jwt.is_some()
            || !self.header.is_empty();
        if connection.protocol == Protocol::Tcp && !asks_http {
            return Ok((connection, None));
        }
        connection.protocol = Protocol::Http;
        let mut request = start.request.take().unwrap_or_default();
        replace(&mut request.method, self.method.take());
        replace(&mut request.path, self.target.take());
        replace(&mut request.host, self.host.take());
        let mut given = std::collections::BTreeMap::new();
        for header in &self.header {
            let Some((name, value)) = header.split_once('=') else {
                return Err(format!("--header: `{header}` is not NAME=VALUE"));
            };
            let value = value.to_owned();
            match given.entry(name.to_ascii_lowercase()) {
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(OneOrMore::One(value));
                }
                std::collections::btree_map::Entry::Occupied(mut entry) => {
                    entry.get_mut().push(value);
                }
            }
        }
        request
            .headers
            .retain(|name, _| !given.contains_key(&name.to_ascii_lowercase()));
        request.headers.extend(given);
        if let Some(jwt) = &self.jwt {
            let token = serde_json::from_str(jwt).map_err(|error| format!("--jwt: {error}"))?;
            request.jwt = Some(token);
        }
        Ok((connection, Some(request)))
    }
}

fn replace(field: &mut String, given: Option<String>) {
    if let Some(given) = given {
        *field = given;
    }
}

/// The flag that sets a field.
fn flag(field: &str) -> String {
    match field.split('.').nth(1) {
        Some("headers") => "--header".to_owned(),
        Some(name) => format!("--{name}"),
        None => field.to_owned(),
    }
}
