//! What can go wrong in a lab, said so that a person knows where to look.

use std::io;
use std::path::PathBuf;

/// Why the lab, or a part of it, could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program of the system that the lab needs is not there.
    #[error(
        "`{tool}` is missing: install the Debian package `{package}` (apt-get install {package})"
    )]
    MissingTool {
        /// The program.
        tool: &'static str,
        /// Where it comes from.
        package: &'static str,
    },
    /// The `kith` binary is not there or too old; tests run it for each process of the lab.
    #[error(
        "cannot find the `kith` binary ({looked}): build it with `cargo build -p kith`, or name it in KITH_BIN"
    )]
    MissingBinary {
        /// Where it was looked for.
        looked: String,
    },
    /// The system refused something.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A command ended badly.
    #[error("{command} failed: {output}")]
    Command {
        /// The command, shortened.
        command: String,
        /// What it printed on stderr.
        output: String,
    },
    /// A part of the lab did not become ready, or did not answer, in time.
    #[error("{part}: {why}\n--- end of {} ---\n{tail}", log.display())]
    NotReady {
        /// Process, and workload.
        part: String,
        /// What was waited for and what was seen instead.
        why: String,
        /// Its log.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// Something went wrong in a lab, whose logs may tell more.
    #[error("{error}\nlogs are kept in {}", directory.display())]
    Kept {
        /// What went wrong.
        error: Box<Error>,
        /// The lab's folder.
        directory: PathBuf,
    },
    /// A part answered something that cannot be understood, or refused.
    #[error("{part}: {why}")]
    Refused {
        /// The part.
        part: String,
        /// Its reason.
        why: String,
    },
    /// Something awaited did not happen in time.
    #[error("waited {seconds} s for {what}{seen}")]
    Timeout {
        /// What.
        what: String,
        /// How long.
        seconds: f64,
        /// What was seen instead, starting with a separator, or empty.
        seen: String,
    },
}

/// Names what was tried beside the system's answer.
pub(crate) trait During<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|error| Error::System {
            what: what(),
            source: error.into(),
        })
    }
}
