//! Revoking and lifting: a document in the folder, like any that people write there, and then the wait for it
//! to be served and enforced.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use hyper::StatusCode;
use kith_xds_client::api::mesh;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::info;

use super::confirm::{Confirmation, confirm};
use crate::catalog::lower_hex;
use crate::status::State;
use crate::yaml::load_str;

/// Below the folder, where orders leave their documents.
pub(crate) const ORDERS: &str = "revocations";
/// The folder is read within milliseconds of a change; without any event, within two seconds.
const SERVED: Duration = Duration::from_secs(10);
/// By then a document that was removed is gone from what is served, unless it is said elsewhere too.
const LIFTED: Duration = Duration::from_secs(4);
const MAX_WAIT: Duration = Duration::from_secs(600);

type Refused = (StatusCode, String);

#[derive(Clone)]
pub(crate) struct Orders<I> {
    state: Arc<State>,
    files: PathBuf,
    no_identity: I,
}

/// Exactly one of the first three, in the words of the document's `spec`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct What {
    principal: Option<Value>,
    certificate: Option<Value>,
    token: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Revoke {
    what: What,
    /// RFC 3339.
    until: String,
    reason: String,
    /// How long to wait for sidecars; 0 does not wait.
    #[serde(default)]
    wait_ms: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lift {
    what: What,
    #[serde(default)]
    wait_ms: u64,
}

/// What was done, and who enforces it.
#[derive(Debug, Serialize)]
pub(super) struct Done {
    /// The document in the folder.
    file: String,
    #[serde(flatten)]
    confirmation: Confirmation,
}

impl<I> Orders<I> {
    pub(crate) fn new(state: Arc<State>, files: PathBuf, no_identity: I) -> Self {
        Self {
            state,
            files,
            no_identity,
        }
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn no_identity(&self) -> &I {
        &self.no_identity
    }

    pub(super) async fn revoke(&self, order: Revoke) -> Result<Done, Refused> {
        let begun = Instant::now();
        let place = Document::of(&self.files, &order.what)?;
        let text = place.text(&order.until, &order.reason);
        let wanted = parsed(&place.file, &text)?;
        if !holds(&wanted, SystemTime::now()) {
            let message = format!(
                "spec.until: {} is over: nothing would be revoked. Name a time by which it would have expired anyway",
                order.until
            );
            return Err((StatusCode::BAD_REQUEST, message));
        }
        let written = SystemTime::now();
        place.write(&text).map_err(|error| {
            let message = format!(
                "cannot write {}: {error}. Where the folder comes from elsewhere, put this into it:\n{text}",
                place.file.display()
            );
            (StatusCode::INTERNAL_SERVER_ERROR, message)
        })?;
        info!(what = %place.what, reason = order.reason, until = order.until, file = %place.file.display(), "revoked by order");
        self.served(written, SERVED, |list| list.contains(&wanted))
            .await?;
        Ok(self.done(&place, begun, order.wait_ms).await)
    }

    pub(super) async fn lift(&self, order: Lift) -> Result<Done, Refused> {
        let begun = Instant::now();
        let place = Document::of(&self.files, &order.what)?;
        let written = SystemTime::now();
        std::fs::remove_file(&place.file).map_err(|error| {
            let status = match error.kind() {
                io::ErrorKind::NotFound => StatusCode::NOT_FOUND,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            let message = format!(
                "cannot remove {}: {error}. A Revocation that was not made by `kith revoke` is lifted where it is written",
                place.file.display()
            );
            (status, message)
        })?;
        info!(what = %place.what, file = %place.file.display(), "lifted by order");
        let now = SystemTime::now();
        let about = |entry: &mesh::Revocation| entry.what == place.revoked && holds(entry, now);
        let lifted = self
            .served(written, LIFTED, |list| !list.iter().any(about))
            .await;
        if lifted.is_err() && self.list().iter().any(about) {
            let why = match self.state.last_load().problems.first() {
                Some(first) => format!(
                    "the folder has problems, and what was revoked before stays so until they are corrected; the first: {first}"
                ),
                None => "another document in the folder revokes it too: `kith revoke --list` shows until when and why"
                    .to_owned(),
            };
            let message = format!("the order's document is removed, but {}: {why}", place.what);
            return Err((StatusCode::CONFLICT, message));
        }
        lifted?;
        Ok(self.done(&place, begun, order.wait_ms).await)
    }

    /// What is served now.
    pub(super) fn revocations(&self) -> Value {
        let catalog = self.state.catalog();
        let version = (catalog.as_ref()).map(|catalog| catalog.revocations.version().to_owned());
        let listed: Vec<Value> = self.list().into_iter().map(describe).collect();
        json!({"version": version, "revocations": listed})
    }

    fn list(&self) -> Vec<mesh::Revocation> {
        let catalog = self.state.catalog();
        let resource = catalog.and_then(|catalog| catalog.revocations.to_wire().resource);
        let list = resource.and_then(|list| mesh::RevocationList::decode(&*list.value).ok());
        list.unwrap_or_default().revocations
    }

    /// Returns when the folder was read after `written` and what is served is as `wanted`.
    async fn served(
        &self,
        written: SystemTime,
        within: Duration,
        wanted: impl Fn(&[mesh::Revocation]) -> bool,
    ) -> Result<(), Refused> {
        let deadline = Instant::now() + within;
        let mut moves = self.state.moves.subscribe();
        loop {
            moves.borrow_and_update();
            let load = self.state.last_load();
            let read = load.attempted.is_some_and(|attempted| attempted >= written);
            let serving = self.state.catalog().is_some();
            if read && serving && wanted(&self.list()) {
                return Ok(());
            }
            let moved = tokio::time::timeout_at(deadline.into(), moves.changed()).await;
            if moved.is_err() {
                let why = match load.problems.first() {
                    Some(first) => format!("the folder has problems, the first: {first}"),
                    None => {
                        "the folder was not read in time; look at this program's log".to_owned()
                    }
                };
                let message = format!("the folder is changed, but that is not served: {why}");
                return Err((StatusCode::SERVICE_UNAVAILABLE, message));
            }
        }
    }

    async fn done(&self, place: &Document, begun: Instant, wait_ms: u64) -> Done {
        let wait = Duration::from_millis(wait_ms).min(MAX_WAIT);
        Done {
            file: place.file.display().to_string(),
            confirmation: confirm(&self.state, begun, begun + wait).await,
        }
    }
}

/// Where the document of one revocation is: the same for the same thing, so that doing it twice is doing it once.
struct Document {
    name: String,
    file: PathBuf,
    /// One line of the spec.
    what: String,
    /// The same as sidecars are told it, whatever way it was written.
    revoked: Option<mesh::revocation::What>,
}

impl Document {
    fn of(files: &Path, what: &What) -> Result<Self, Refused> {
        let given = [
            ("principal", &what.principal),
            ("certificate", &what.certificate),
            ("token", &what.token),
        ];
        let mut given = given
            .into_iter()
            .filter_map(|(key, value)| Some((key, value.as_ref()?)));
        let (Some((key, value)), None) = (given.next(), given.next()) else {
            let message = "name exactly one of principal, certificate and token";
            return Err((StatusCode::BAD_REQUEST, message.to_owned()));
        };
        let mut document = Self {
            name: "revoked".to_owned(),
            file: files.join(ORDERS),
            what: format!("{key}: {}", in_yaml(value)),
            revoked: None,
        };
        let text = document.text("9999-12-31T00:00:00Z", "any");
        document.revoked = parsed(&document.file, &text)?.what;
        // As it is on the wire, so that one thing has one document however it is spelt.
        let canonical = mesh::Revocation {
            what: document.revoked.clone(),
            ..Default::default()
        };
        let digest = digest(&SHA256, &canonical.encode_to_vec());
        document.name = format!("revoked-{}", lower_hex(digest.as_ref()));
        document.file.push(format!("{}.yaml", document.name));
        Ok(document)
    }

    fn text(&self, until: &str, reason: &str) -> String {
        let now = OffsetDateTime::now_utc()
            .format(&Rfc3339)
            .unwrap_or_default();
        format!(
            "# Written by order at {now}. Lift it with `kith revoke --lift`, or remove this file.\n\
             apiVersion: kith.dev/v1alpha1\n\
             kind: Revocation\n\
             metadata: {{name: {}}}\n\
             spec:\n  {}\n  until: {}\n  reason: {}\n",
            self.name,
            self.what,
            in_yaml(&until.into()),
            in_yaml(&reason.into()),
        )
    }

    /// Whole or not at all, and still there after a crash of the machine.
    fn write(&self, text: &str) -> io::Result<()> {
        let folder = self.file.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let new = folder.join(format!(".{}.new", self.name));
        let mut file = std::fs::File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(new, &self.file)?;
        std::fs::File::open(folder)?.sync_all()
    }
}

/// The document as it will be served; what is wrong with it in the words of any document.
fn parsed(file: &Path, text: &str) -> Result<mesh::Revocation, Refused> {
    let problems = |problems: Vec<crate::Problem>| {
        let all: Vec<String> = (problems.iter())
            .map(|problem| format!("{}: {}", problem.field, problem.message))
            .collect();
        (StatusCode::BAD_REQUEST, all.join("; "))
    };
    let loaded = load_str(file, text).map_err(problems)?;
    let revocation = loaded
        .files()
        .flat_map(|documents| &documents.revocations)
        .next();
    revocation
        .map(|document| document.spec.to_wire())
        .ok_or_else(|| (StatusCode::BAD_REQUEST, "names nothing".to_owned()))
}

/// JSON is YAML, and its strings need no other quoting, but for some characters that only JSON takes as they are
/// (YAML 1.2.2 section 5.1).
fn in_yaml(value: &Value) -> String {
    let mut text = String::new();
    for character in value.to_string().chars() {
        match character {
            '\u{7f}'..='\u{9f}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            plain => text.push(plain),
        }
    }
    text
}

/// As sidecars see it: an entry has no effect from its `until` on.
fn holds(revocation: &mesh::Revocation, now: SystemTime) -> bool {
    let until = revocation
        .until
        .and_then(|until| SystemTime::try_from(until).ok());
    until.is_some_and(|until| now < until)
}

fn describe(revocation: mesh::Revocation) -> Value {
    use mesh::revocation::What;
    let until = revocation
        .until
        .and_then(|until| SystemTime::try_from(until).ok());
    let until = until.and_then(|until| OffsetDateTime::from(until).format(&Rfc3339).ok());
    let mut described = json!({"until": until, "reason": revocation.reason});
    let (key, value) = match revocation.what {
        Some(What::Principal(principal)) => ("principal", principal.into()),
        Some(What::Certificate(certificate)) => (
            "certificate",
            json!({"trustDomain": certificate.trust_domain, "serial": certificate.serial}),
        ),
        Some(What::TokenId(token)) => ("token", token.into()),
        None => ("unknown", Value::Null),
    };
    described[key] = value;
    described
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any character may be in a `jti`, and one that YAML reads otherwise than JSON writes it would have another token
    /// revoked than the one that was named.
    #[test]
    fn what_is_ordered_is_what_the_document_says() {
        let odd = (0..=0x2ff).chain([0x2028, 0x2029, 0xfeff, 0xfffe, 0xffff, 0xe000, 0x1_f600]);
        let odd = odd.filter_map(char::from_u32).map(|odd| odd.to_string());
        let texts = [
            "\\n",
            "'",
            "\"}, until: x",
            "*a",
            "&a",
            "!!int 1",
            "<<",
            "---",
            " ",
        ];
        for odd in odd.chain(texts.map(str::to_owned)) {
            for jti in [format!("{odd}b"), format!("a{odd}b"), format!("a{odd}")] {
                let what: What = serde_json::from_value(json!({"token": {"jti": jti}})).unwrap();
                let hash = lower_hex(digest(&SHA256, jti.as_bytes()).as_ref());
                match Document::of(Path::new("/files"), &what) {
                    Ok(document) => {
                        let revoked = mesh::revocation::What::TokenId(hash);
                        assert_eq!(document.revoked, Some(revoked), "{jti:?}");
                    }
                    Err((status, why)) => panic!("{jti:?}: {status} {why}"),
                }
            }
        }
    }
}
