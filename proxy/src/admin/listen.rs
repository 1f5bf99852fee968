//! Opening the two listeners.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::config::AdminListen;

pub(crate) enum AdminListener {
    Tcp(TcpListener),
    Unix(UnixSocket),
}

/// A listening Unix socket, whose file goes with it.
pub(crate) struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl UnixSocket {
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _ = fs::remove_file(&self.path);
    }
}

/// # Errors
/// One line that names the variable and says what to do.
pub(crate) async fn bind_admin(listen: &AdminListen) -> io::Result<AdminListener> {
    match listen {
        AdminListen::Tcp(address) => {
            let listener = TcpListener::bind(address).await;
            listener
                .map(AdminListener::Tcp)
                .map_err(|error| explain("KITH_ADMIN_LISTEN", &address.to_string(), &error))
        }
        AdminListen::Unix(path) => {
            let listener = bind_unix(path);
            listener.map(AdminListener::Unix).map_err(|error| {
                explain(
                    "KITH_ADMIN_LISTEN",
                    &format!("unix://{}", path.display()),
                    &error,
                )
            })
        }
    }
}

/// # Errors
/// One line that names the variable and says what to do.
pub(crate) async fn bind_health(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = match TcpListener::bind(address).await {
        // No IPv6 here: "any address" then means any IPv4 address.
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() && lacks_ipv6(&error) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        listener => listener,
    };
    listener.map_err(|error| explain("KITH_HEALTH_LISTEN", &address.to_string(), &error))
}

fn lacks_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// Only the sidecar's own user may connect. A socket that a dead process left is removed.
fn bind_unix(path: &Path) -> io::Result<UnixSocket> {
    let left = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        && std::os::unix::net::UnixStream::connect(path).is_err();
    if left {
        fs::remove_file(path)?;
    }
    let socket = UnixSocket {
        listener: UnixListener::bind(path)?,
        path: path.to_owned(),
    };
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(socket)
}

fn explain(variable: &str, value: &str, error: &io::Error) -> io::Error {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "is in use; stop the program that has it, or choose another".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => {
            "is not an address of this machine; choose another".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "is not permitted; choose a port from 1024 up, or a writable folder".to_owned()
        }
        _ => format!("can't be listened on: {error}"),
    };
    io::Error::new(error.kind(), format!("{variable}={value} {advice}"))
}
