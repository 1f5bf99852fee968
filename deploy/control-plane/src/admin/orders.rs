//! Revoking and lifting: a document in the folder, like any that people write there, and then the wait for it
//! to be served and enforced.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hyper::StatusCode;
use kith_xds_client::api::mesh;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::info;

use super::confirm::{Confirmation, confirm};
use crate::catalog::content_hash;
use crate::status::State;
use crate::yaml::load_str;

/// Below the folder, where orders leave their documents.
pub(crate) const ORDERS: &str = "revocations";
/// The folder is read within milliseconds of a change; without any event, within two seconds.
const SERVED: Duration = Duration::from_secs(10);
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
        let text = place.text(&order);
        let wanted = parsed(&place.file, &text)?;
        let written = SystemTime::now();
        place.write(&text).map_err(|error| {
            let message = format!(
                "cannot write {}: {error}. Where the folder comes from elsewhere, put this into it:\n{text}",
                place.file.display()
            );
            (StatusCode::INTERNAL_SERVER_ERROR, message)
        })?;
        info!(what = %place.what, reason = order.reason, until = order.until, file = %place.file.display(), "revoked by order");
        self.served(written, |list| list.contains(&wanted)).await?;
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
        self.served(written, |_| true).await?;
        Ok(self.done(&place, begun, order.wait_ms).await)
    }

    /// What is served now.
    pub(super) fn revocations(&self) -> Value {
        let catalog = self.state.catalog.borrow().clone();
        let version = (catalog.as_ref()).map(|catalog| catalog.revocations.version().to_owned());
        let listed: Vec<Value> = self.list().into_iter().map(describe).collect();
        json!({"version": version, "revocations": listed})
    }

    fn list(&self) -> Vec<mesh::Revocation> {
        let catalog = self.state.catalog.borrow().clone();
        let resource = catalog.and_then(|catalog| catalog.revocations.to_wire().resource);
        let list = resource.and_then(|list| mesh::RevocationList::decode(&*list.value).ok());
        list.unwrap_or_default().revocations
    }

    /// Returns when the folder was read after `written` and what is served is as `wanted`.
    async fn served(
        &self,
        written: SystemTime,
        wanted: impl Fn(&[mesh::Revocation]) -> bool,
    ) -> Result<(), Refused> {
        let deadline = Instant::now() + SERVED;
        let mut moves = self.state.moves.subscribe();
        loop {
            moves.borrow_and_update();
            let load = self.state.last_load();
            let read = load.attempted.is_some_and(|attempted| attempted >= written);
            if read && wanted(&self.list()) {
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
                let message = format!("the document is written, but not served: {why}");
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
        // JSON is YAML, and its strings need no other quoting.
        let what = format!("{key}: {value}");
        let name = format!("revoked-{}", content_hash(&[what.as_bytes()]));
        let file = files.join(ORDERS).join(format!("{name}.yaml"));
        Ok(Self { name, file, what })
    }

    fn text(&self, order: &Revoke) -> String {
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
            Value::from(order.until.as_str()),
            Value::from(order.reason.as_str()),
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
