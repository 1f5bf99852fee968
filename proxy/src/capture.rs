//! `kith-proxy capture`: the rules that redirect this network namespace's TCP traffic to the sidecar.
//!
//! One nftables table of its own, `inet kith`, for IPv4 and IPv6, replaced as a whole in one transaction. No other
//! table is ever read or written.

mod nft;
mod rules;

use std::process::ExitCode;

use clap::Args;
use ipnet::IpNet;

use nft::NftError;
use rules::Rules;

/// The proxy's uid where nothing else is said.
const PROXY_UID: u32 = 1337;

pub(crate) const LONG_ABOUT: &str = "\
Install, verify or remove the rules that redirect this pod's TCP traffic to the sidecar: one nftables table, \
`inet kith`, for IPv4 and IPv6. It is replaced in one step, installing it twice changes nothing, and no other table is \
touched. Needs nft (package nftables) and the capability NET_ADMIN.

What is captured: TCP from elsewhere to an address of this pod, and TCP from this pod to anywhere else. While the sidecar \
does not run, such connections are refused by the kernel; they never pass it by.

What is not: UDP, SCTP and ICMP; excluded ports and networks; traffic inside the pod; processes with the sidecar's uid \
or mark; connections that were open before. Keep the application from that uid and from NET_ADMIN, and use a \
NetworkPolicy for the protocols.

Exit code: 0 done, or as expected; 1 rules differ, or an error; 2 a mistake on the command line.";

#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct CaptureOptions {
    /// The sidecar's user id: its own traffic is not captured [default: 1337, or none with --mark]
    #[arg(long)]
    uid: Option<u32>,

    /// The sidecar's firewall mark (KITH_SOCKET_MARK), for where it has no uid of its own
    #[arg(long, value_parser = crate::config::values::mark)]
    mark: Option<u32>,

    /// Where the sidecar takes inbound connections (KITH_INBOUND_LISTEN)
    #[arg(long, value_name = "PORT", default_value_t = 15006, value_parser = clap::value_parser!(u16).range(1..))]
    inbound_port: u16,

    /// Where the sidecar takes outbound connections (KITH_OUTBOUND_LISTEN)
    #[arg(long, value_name = "PORT", default_value_t = 15001, value_parser = clap::value_parser!(u16).range(1..))]
    outbound_port: u16,

    /// Ports of this pod that are reached directly, past the sidecar
    #[arg(long, value_name = "PORT,…", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    exclude_inbound_ports: Vec<u16>,

    /// Ports elsewhere that are reached directly, past the sidecar
    #[arg(long, value_name = "PORT,…", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    exclude_outbound_ports: Vec<u16>,

    /// Networks that are reached directly, past the sidecar
    #[arg(long, value_name = "CIDR,…", value_delimiter = ',', value_parser = crate::config::values::network)]
    exclude_outbound_cidrs: Vec<IpNet>,

    /// Remove the rules
    #[arg(long, conflicts_with = "check")]
    remove: bool,

    /// Change nothing; say whether the rules are exactly those that these options would install
    #[arg(long)]
    check: bool,
}

/// Does what the options say, and says what was done.
pub(crate) fn run(options: &CaptureOptions) -> ExitCode {
    match act(options) {
        Ok(Outcome::Done(message)) => {
            println!("{message}");
            ExitCode::SUCCESS
        }
        Ok(Outcome::Differs(differences)) => {
            eprintln!("kith-proxy capture: the rules are not as these options would install them:");
            differences
                .iter()
                .for_each(|difference| eprintln!("  {difference}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("kith-proxy capture: {error}");
            ExitCode::FAILURE
        }
    }
}

enum Outcome {
    Done(&'static str),
    Differs(Vec<String>),
}

fn act(options: &CaptureOptions) -> Result<Outcome, NftError> {
    let rules = Rules::new(options);
    if options.remove {
        nft::apply(&rules::removal())?;
        return Ok(Outcome::Done("removed table inet kith"));
    }
    if options.check {
        let differences = match nft::list()? {
            Some(listing) => rules.differences(&listing),
            None => vec!["table inet kith does not exist: nothing is captured".to_owned()],
        };
        return Ok(match differences.is_empty() {
            true => Outcome::Done("table inet kith is as expected"),
            false => Outcome::Differs(differences),
        });
    }
    nft::apply(&rules.script())?;
    Ok(Outcome::Done("installed table inet kith"))
}

#[cfg(test)]
mod tests;
