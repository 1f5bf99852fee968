//! The control socket: one JSON command per line in, one JSON reply per line out.

use std::fs::{self, OpenOptions};
use std::future::Future;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::ca::IssuedSvid;
use super::state::State;
use super::{AuthorityError, Command, server};

/// How long [`command`] waits for its reply.
const REPLY_WITHIN: Duration = Duration::from_secs(10);

/// Sends one command to a running authority and gives its reply, `{"ok":true,…}` or
/// `{"ok":false,"error":…}`.
pub async fn command(socket: &Path, command: &Value) -> io::Result<Value> {
    let exchange = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(format!("{command}\n").as_bytes()).await?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await?;
        serde_json::from_str(&line).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    };
    timeout(REPLY_WITHIN, exchange)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the authority gave no reply"))?
}

/// Only the user who runs the authority may command it.
pub(super) fn listen(
    state: Arc<State>,
    socket: &Path,
) -> Result<impl Future<Output = ()> + use<>, AuthorityError> {
    let listener = server::bind(socket, 0o600)?;
    state.lock().sockets.insert(socket.to_owned());
    Ok(accept(state, listener))
}

async fn accept(state: Arc<State>, listener: UnixListener) {
    let mut conversations = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    conversations.spawn(converse(state.clone(), stream));
                }
                // Out of file descriptors, most likely: wait rather than spin.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            Some(_) = conversations.join_next() => {}
        }
    }
}

async fn converse(state: Arc<State>, mut stream: UnixStream) {
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let reply = match serde_json::from_str(&line) {
            Ok(command) => execute(&state, command),
            Err(problem) => json!({"ok": false, "error": format!("not a command: {problem}")}),
        };
        if write
            .write_all(format!("{reply}\n").as_bytes())
            .await
            .is_err()
        {
            return;
        }
    }
}

pub(super) fn execute(state: &Arc<State>, command: Command) -> Value {
    match carry_out(state, command) {
        Ok(mut reply) => {
            reply["ok"] = Value::Bool(true);
            reply
        }
        Err(problem) => json!({"ok": false, "error": problem.to_string()}),
    }
}

fn carry_out(state: &Arc<State>, command: Command) -> Result<Value, AuthorityError> {
    Ok(match command {
        Command::RotateRoot => {
            state.rotate_root()?;
            json!({})
        }
        Command::RevokeOldRoots => {
            state.revoke_old_roots()?;
            json!({})
        }
        Command::RotateLeaf => {
            state.rotate_leaf();
            json!({})
        }
        Command::Deny { on } => {
            state.switch(|switches| switches.deny = on);
            json!({})
        }
        Command::Freeze { on } => {
            state.switch(|switches| switches.freeze = on);
            json!({})
        }
        Command::Malformed { kind } => {
            state.switch(|switches| switches.malformed = kind);
            json!({})
        }
        Command::SetTtl { seconds } => {
            state.set_ttl(Duration::from_secs(seconds));
            json!({})
        }
        Command::AddEntry { entry } => {
            server::add_entry(state, entry)?;
            json!({"sockets": server::sockets(state)})
        }
        Command::RemoveEntry { id } => json!({"removed": state.remove_entry(&id)}),
        Command::Federate {
            trust_domain,
            bundle,
            jwks,
        } => {
            let jwks = jwks.map(|jwks| jwks.to_string().into_bytes());
            state.federate(&trust_domain, bundle.as_bytes(), jwks.as_deref())?;
            json!({})
        }
        Command::Unfederate { trust_domain } => json!({"removed": state.unfederate(&trust_domain)}),
        Command::Issue {
            id,
            dir,
            ttl_seconds,
        } => {
            let ttl = ttl_seconds.map_or_else(|| state.lock().ttl, Duration::from_secs);
            let svid = state.issue(&id, ttl, SystemTime::now())?;
            svid.write_to(&dir)?;
            json!({
                "dir": dir,
                "serial": svid.serial,
                "thumbprint": URL_SAFE_NO_PAD.encode(svid.thumbprint()),
            })
        }
        Command::IssueJwt {
            id,
            audience,
            ttl_seconds,
            claims,
        } => {
            let ttl = ttl_seconds.map(Duration::from_secs);
            json!({"token": state.issue_jwt(&id, &audience, ttl, claims)?})
        }
        Command::Revoke { serial } => json!({"changed": state.revoke(&serial, true)?}),
        Command::Unrevoke { serial } => json!({"changed": state.revoke(&serial, false)?}),
        Command::Jwks => json!({"jwks": state.jwks()}),
        Command::Bundle => json!({"bundle": state.bundle_pem()}),
        Command::Status => state.status(),
    })
}

impl IssuedSvid {
    /// SHA-256 of the certificate: what a token is bound to (`cnf` `x5t#S256`, RFC 8705 section 3.1).
    pub fn thumbprint(&self) -> [u8; 32] {
        crate::sha256(&self.certificate_der)
    }

    /// Writes `svid.pem`, `key.pem` (0600) and `bundle.pem`, as curl and Envoy take them.
    pub fn write_to(&self, dir: &Path) -> Result<(), AuthorityError> {
        let write = || {
            fs::create_dir_all(dir)?;
            fs::write(dir.join("svid.pem"), &self.certificate_pem)?;
            fs::write(dir.join("bundle.pem"), &self.bundle_pem)?;
            let key = dir.join("key.pem");
            // A file that exists would keep its mode.
            if key.exists() {
                fs::remove_file(&key)?;
            }
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(key)?
                .write_all(self.key_pem.as_bytes())
        };
        write().map_err(|error| AuthorityError::Io {
            what: "cannot write the SVID to",
            path: dir.display().to_string(),
            error,
        })
    }
}
