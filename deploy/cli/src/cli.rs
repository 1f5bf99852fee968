//! Arguments → what to do → exit code.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::operate::{revoke, status};
use crate::{app, demo, inject, lab, policy};

/// The people's tool of Kith, the sidecar that knows who is calling, and can prove it.
///
/// Start with `kith demo`: it runs a small mesh on this machine and shows what the sidecars do.
#[derive(Parser)]
#[command(
    name = "kith",
    version,
    after_help = "Exit codes: 0 as expected, 1 something was not, 2 wrong usage or something is missing."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a mesh on this machine and walk through what it does: real sidecars, real traffic, nothing to set up.
    ///
    /// Works as root and as an ordinary user, in network namespaces of its own: nothing outside them is touched, and
    /// nothing is left behind. It takes about a minute, and then stays up for you to try things, until Ctrl-C.
    /// It needs the tools `ip` (Debian package iproute2) and `nft` (nftables).
    ///
    /// Logs and records are in a temporary folder (in KITH_LAB_DIR, if set) that is removed at the end, unless a step was
    /// not as expected or KITH_LAB_KEEP is set.
    Demo(demo::Arguments),
    /// Revoke a principal, a certificate or a token everywhere, live connections included.
    ///
    /// The control plane writes a Revocation document into its folder and sends the list to every sidecar. With --wait the
    /// command returns when each connected sidecar has confirmed that it enforces it: what the revoked had open is closed.
    /// Exit 1 when some sidecar has not confirmed it (with --wait only). Exit 2, and the message says which: the control
    /// plane cannot be asked, or refuses; the document is written and not served yet (it takes effect once the folder has
    /// no problems); there is nothing to lift, or another document still revokes it.
    Revoke(revoke::Arguments),
    /// Show which sidecars are connected and where they are not what they should be.
    ///
    /// Drift is: an update not acknowledged, or refused; the revocation list not enforced; an SVID near its expiry; plaintext
    /// accepted. Exit 1 when there is any, or a declared sidecar is not connected; 2 when the control plane cannot be asked.
    Status(status::Arguments),
    /// Test, explain and check policies offline, by the very engine that the sidecars use.
    Policy(policy::Arguments),
    /// Put the sidecar into pods of manifests, as the control plane's webhook does in a cluster.
    ///
    /// Pods and all that make pods (Deployment, StatefulSet, DaemonSet, ReplicaSet, ReplicationController, Job, CronJob,
    /// PodTemplate, lists of them) get a sidecar, but those labelled kith.dev/inject: "false". All other documents are
    /// printed as they are, byte for byte. Injecting twice gives the same as injecting once.
    ///
    /// Exit 0 when done, 1 with --check when something is not injected yet, 2 when something is in the way; then nothing
    /// is printed, and all reasons are told.
    Inject(inject::Arguments),
}

/// Runs `kith`. The first argument is the program's own name.
#[must_use]
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let rest = arguments.get(2..).unwrap_or_default();
    // The parts of a lab, all this one binary: `kith demo` needs nothing but itself. As programs of their own they see
    // themselves first.
    let itself = |name: &str| -> Vec<OsString> {
        std::iter::once(name.into())
            .chain(rest.iter().cloned())
            .collect()
    };
    match arguments.get(1).and_then(|name| name.to_str()) {
        Some("__child") => return lab::child::main(rest),
        Some("__keeper") => return lab::keeper::main(rest),
        Some("__app") => return app::main(rest),
        Some("__authority") => return lab::authority::main(rest),
        Some("__control") => return kith_control::cli::main(itself("kith-control")),
        Some("__proxy") => return kith_proxy::cli::main(itself("kith-proxy")),
        _ => {}
    }
    match Arguments::try_parse_from(arguments) {
        Ok(Arguments {
            command: Command::Demo(arguments),
        }) => demo::main(arguments),
        Ok(Arguments {
            command: Command::Revoke(arguments),
        }) => revoke::main(&arguments),
        Ok(Arguments {
            command: Command::Status(arguments),
        }) => status::main(&arguments),
        Ok(Arguments {
            command: Command::Policy(arguments),
        }) => policy::main(arguments),
        Ok(Arguments {
            command: Command::Inject(arguments),
        }) => inject::main(&arguments),
        Err(error) => {
            // To stdout for --help, to stderr for mistakes; nobody is left to tell if that fails.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}
