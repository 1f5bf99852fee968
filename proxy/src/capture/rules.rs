//! The rules themselves, as text: what is installed, and how a listing differs from it.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{CaptureOptions, PROXY_UID};

/// Ports of the sidecar that are no configuration of `capture`: admin and health.
const ADMIN_AND_HEALTH: [u16; 2] = [15000, 15021];

/// Rules in the form in which nft lists them again, so that a listing can be compared line by line.
pub(super) struct Rules {
    chains: [Chain; 2],
}

struct Chain {
    name: &'static str,
    /// `dstnat` would be the same number, but is not a valid word on the output hook.
    header: &'static str,
    rules: Vec<String>,
}

impl Rules {
    pub(super) fn new(options: &CaptureOptions) -> Self {
        Rules {
            chains: [inbound(options), outbound(options)],
        }
    }

    /// One transaction. The table is added before it is deleted, because deleting what isn't there is an error.
    pub(super) fn script(&self) -> String {
        let mut script = removal();
        for line in self.lines() {
            script.push_str(&line);
            script.push('\n');
        }
        script
    }

    /// What has to change for the listing to be what would be installed. Nothing, if it is.
    pub(super) fn differences(&self, listing: &str) -> Vec<String> {
        let expected: Vec<String> = self
            .lines()
            .iter()
            .map(|line| normal(line))
            .filter(|line| !line.is_empty())
            .collect();
        let found: Vec<String> = listing
            .lines()
            .map(normal)
            .filter(|line| !line.is_empty())
            .collect();
        if expected == found {
            return Vec::new();
        }
        let mut differences = Vec::new();
        let mut left = found;
        for line in expected {
            match left.iter().position(|found| *found == line) {
                Some(index) => {
                    left.remove(index);
                }
                None => differences.push(format!("missing:    {line}")),
            }
        }
        differences.extend(left.iter().map(|line| format!("unexpected: {line}")));
        if differences.is_empty() {
            differences.push("the rules are there, but in another order".to_owned());
        }
        differences
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec!["table inet kith {".to_owned()];
        for chain in &self.chains {
            lines.push(format!("\tchain {} {{", chain.name));
            lines.push(format!("\t\t{}", chain.header));
            lines.extend(chain.rules.iter().map(|rule| format!("\t\t{rule}")));
            lines.push("\t}".to_owned());
        }
        lines.push("}".to_owned());
        lines
    }
}

pub(super) fn removal() -> String {
    "add table inet kith\ndelete table inet kith\n".to_owned()
}

/// What comes from elsewhere. What the pod says to itself, the sidecar to the application included, comes in through lo.
fn inbound(options: &CaptureOptions) -> Chain {
    let mut rules = vec![
        "iif \"lo\" return".to_owned(),
        "fib daddr type != local return".to_owned(),
    ];
    let own = [options.inbound_port, options.outbound_port];
    let direct: BTreeSet<u16> = ADMIN_AND_HEALTH
        .iter()
        .chain(&own)
        .chain(&options.exclude_inbound_ports)
        .copied()
        .collect();
    rules.extend(direct.iter().map(|port| format!("tcp dport {port} return")));
    rules.push(format!(
        "meta l4proto tcp redirect to :{}",
        options.inbound_port
    ));
    Chain {
        name: "prerouting",
        header: "type nat hook prerouting priority -100; policy accept;",
        rules,
    }
}

/// What goes elsewhere. Any address of this pod is reached through lo, so an application that calls itself is not captured.
fn outbound(options: &CaptureOptions) -> Chain {
    let mut rules = Vec::new();
    // With a mark and no uid said, the uid may well be the application's.
    if let Some(uid) = options.uid.or(options.mark.is_none().then_some(PROXY_UID)) {
        rules.push(format!("meta skuid {uid} return"));
    }
    if let Some(mark) = options.mark {
        rules.push(format!("meta mark {mark:#010x} return"));
    }
    rules.push("oif \"lo\" return".to_owned());
    let ports: BTreeSet<u16> = options.exclude_outbound_ports.iter().copied().collect();
    rules.extend(ports.iter().map(|port| format!("tcp dport {port} return")));
    let networks: BTreeSet<IpNet> = options
        .exclude_outbound_cidrs
        .iter()
        .map(IpNet::trunc)
        .collect();
    rules.extend(networks.iter().filter_map(direct_network));
    rules.push(format!(
        "meta l4proto tcp redirect to :{}",
        options.outbound_port
    ));
    Chain {
        name: "output",
        header: "type nat hook output priority -100; policy accept;",
        rules,
    }
}

fn direct_network(network: &IpNet) -> Option<String> {
    let family = match network {
        IpNet::V4(_) => "ip",
        IpNet::V6(_) => "ip6",
    };
    match network.prefix_len() {
        // nft has no word for "any address" but the absence of a match.
        0 => Some(format!(
            "meta nfproto {} return",
            if family == "ip" { "ipv4" } else { "ipv6" }
        )),
        length if length == network.max_prefix_len() => {
            Some(format!("{family} daddr {} return", network.addr()))
        }
        _ => Some(format!("{family} daddr {network} return")),
    }
}

/// Versions of nft differ in how they write the same thing: quotes, the base of a number, the word for a priority. Where
/// there is no `/etc/protocols`, as in a minimal image, TCP is a number.
fn normal(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let word = word.trim_matches('"');
        let (word, end) = word
            .strip_suffix(';')
            .map_or((word, ""), |word| (word, ";"));
        let hex = word
            .strip_prefix("0x")
            .and_then(|digits| u32::from_str_radix(digits, 16).ok());
        match (word, hex) {
            ("dstnat", _) => format!("-100{end}"),
            (_, Some(number)) => format!("{number}{end}"),
            (word, None) => format!("{word}{end}"),
        }
    });
    let line = words.collect::<Vec<_>>().join(" ");
    match line.strip_prefix("meta l4proto 6 ") {
        Some(rest) => format!("meta l4proto tcp {rest}"),
        None => line,
    }
}
