//! Where the programs are that `make interop` installs.

use std::path::{Path, PathBuf};

use kith::lab::privileges;

/// A program of the system.
///
/// # Panics
/// When it is missing: names what installs it.
#[track_caller]
pub(crate) fn system(name: &'static str) -> &'static str {
    match privileges::tool(name, name) {
        Ok(_) => name,
        Err(_) => missing(name),
    }
}

/// The Python that has grpcio, aiosmtpd and py-spiffe.
///
/// # Panics
/// When it is missing: names what installs it.
#[track_caller]
pub(crate) fn python() -> String {
    let python = environment().join("bin/python");
    if !python.is_file() {
        missing("the Python environment target/interop/venv");
    }
    text(&python)
}

/// Envoy itself: the command of that name in the environment is a script around it.
///
/// # Panics
/// When it is missing: names what installs it.
#[track_caller]
pub(crate) fn envoy() -> String {
    let versions = std::fs::read_dir(environment().join("lib"))
        .into_iter()
        .flatten()
        .flatten();
    let binary = |entry: std::fs::DirEntry| entry.path().join("site-packages/envoy/_bin/envoy");
    match versions.map(binary).find(|path| path.is_file()) {
        Some(path) => text(&path),
        None => missing("envoy"),
    }
}

/// `spire-server`, `spire-agent`, or this folder's own program on go-spiffe, `spiffe-peer`.
///
/// # Panics
/// When it is missing: names what installs it.
#[track_caller]
pub(crate) fn spire(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/interop/spire")
        .join(name);
    match path.canonicalize() {
        Ok(path) => text(&path),
        Err(_) => missing(name),
    }
}

/// One of this folder's Python programs.
pub(crate) fn script(name: &str) -> String {
    text(
        &Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("interop/python")
            .join(name),
    )
}

fn environment() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/interop/venv")
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}

#[track_caller]
fn missing(what: &str) -> ! {
    panic!("{what} is missing: `make interop` installs it (tests/interop/setup.sh)")
}
