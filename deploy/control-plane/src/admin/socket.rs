//! A Unix socket that nobody but its owner can open, from its first moment on.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Type};
use tokio::net::UnixListener;

pub(crate) struct Socket {
    listener: UnixListener,
    file: File,
}

/// Removes the socket's file in the end.
pub(super) struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        // Gone already, or somebody else's business by now.
        _ = std::fs::remove_file(&self.0);
    }
}

impl Socket {
    /// Replaces the socket of a program that is gone, and nothing else.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                let message = "there is a file of this name that is no socket";
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                let message = "another program listens there";
                return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
            }
            Ok(_) => std::fs::remove_file(path)?,
            Err(_) => {}
        }
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(path)?)?;
        let file = File(path.to_owned());
        // Before it listens nobody can connect, so that there is no moment in which others may.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        socket.listen(64)?;
        let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(
            std::os::fd::OwnedFd::from(socket),
        ))?;
        Ok(Self { listener, file })
    }

    pub(super) fn into_parts(self) -> (UnixListener, File) {
        (self.listener, self.file)
    }
}
