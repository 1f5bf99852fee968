//! What the access log is written to.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use super::Destination;

pub(super) struct Target {
    file: File,
    /// None for standard output.
    path: Option<PathBuf>,
}

impl Target {
    /// None when the access log is off.
    pub(super) fn open(destination: &Destination) -> io::Result<Option<Self>> {
        match destination {
            Destination::Off => Ok(None),
            // Past std's own line buffer, which would make a write(2) of every line.
            Destination::Stdout => {
                let descriptor = io::stdout().as_fd().try_clone_to_owned()?;
                Ok(Some(Target {
                    file: descriptor.into(),
                    path: None,
                }))
            }
            Destination::File(path) => {
                let file = open_to_append(path)?;
                Ok(Some(Target {
                    file,
                    path: Some(path.clone()),
                }))
            }
        }
    }

    /// Keeps the old file when the new one can't be opened.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let Some(path) = &self.path {
            self.file = open_to_append(path)?;
        }
        Ok(())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the writer has a thread of its own, on which nobody waits"
    )]
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Whoever shares standard output may have made it non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::sleep(Duration::from_millis(2))
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Records name people and services: nobody else's to read.
fn open_to_append(path: &PathBuf) -> io::Result<File> {
    let opened = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path);
    opened.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("can't open the access log {}: {error}", path.display()),
        )
    })
}
