//! Sets of ports, finite or all but a finite set: on which ports can a rule match?

use std::sync::Arc;

use crate::ValidPolicy;
use crate::constraint::Rule;
use crate::words;

/// A decimal port number, 1 to 65535, written the one way it is written.
pub(crate) fn parse_port(value: &str) -> Result<u16, String> {
    let canonical = !value.is_empty()
        && value.len() <= 5
        && value.bytes().all(|b| b.is_ascii_digit())
        && !value.starts_with('0');
    match value.parse() {
        Ok(port) if canonical => Ok(port),
        _ => Err(format!("`{value}`{}", words::NOT_A_PORT)),
    }
}

/// Both lists are sorted, without repetition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PortSet {
    Only(Vec<u16>),
    AllBut(Vec<u16>),
}

impl PortSet {
    pub(crate) fn none() -> Self {
        Self::Only(Vec::new())
    }

    pub(crate) fn all() -> Self {
        Self::AllBut(Vec::new())
    }

    pub(crate) fn contains(&self, port: u16) -> bool {
        match self {
            Self::Only(ports) => ports.binary_search(&port).is_ok(),
            Self::AllBut(ports) => ports.binary_search(&port).is_err(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Only(ports) => ports.is_empty(),
            // There is no port 0, and it may not be named.
            Self::AllBut(ports) => ports.len() == usize::from(u16::MAX),
        }
    }

    fn complement(self) -> Self {
        match self {
            Self::Only(ports) => Self::AllBut(ports),
            Self::AllBut(ports) => Self::Only(ports),
        }
    }

    /// What `ports` (or, negated, `notPorts`) leaves of a set. `ports` are sorted.
    pub(crate) fn restrict(self, ports: &[u16], negative: bool) -> Self {
        let ports = ports.to_vec();
        self.intersection(if negative {
            Self::AllBut(ports)
        } else {
            Self::Only(ports)
        })
    }

    /// Where some rule of these policies can match that is about who the peer is.
    pub(crate) fn where_identity_is_used<'p>(
        policies: impl Iterator<Item = &'p Arc<ValidPolicy>>,
    ) -> Self {
        let rules = policies.flat_map(|policy| policy.rules());
        Self::union_of(rules.filter(|rule| rule.uses_identity()).map(Rule::ports))
    }

    fn union_of(sets: impl Iterator<Item = Self>) -> Self {
        let (mut only, mut all_but) = (Vec::new(), None);
        for set in sets {
            match (set, all_but.take()) {
                (Self::Only(ports), before) => {
                    only.extend(ports);
                    all_but = before;
                }
                (set, None) => all_but = Some(set),
                (set, Some(before)) => all_but = Some(set.union(before)),
            }
        }
        only.sort_unstable();
        only.dedup();
        let only = Self::Only(only);
        match all_but {
            None => only,
            Some(all_but) => all_but.union(only),
        }
    }

    pub(crate) fn union(self, other: Self) -> Self {
        match (self, other) {
            (Self::Only(mut a), Self::Only(b)) => {
                a.extend(b);
                a.sort_unstable();
                a.dedup();
                Self::Only(a)
            }
            (Self::AllBut(mut but), Self::Only(ports))
            | (Self::Only(ports), Self::AllBut(mut but)) => {
                but.retain(|port| ports.binary_search(port).is_err());
                Self::AllBut(but)
            }
            (Self::AllBut(mut a), Self::AllBut(b)) => {
                a.retain(|port| b.binary_search(port).is_ok());
                Self::AllBut(a)
            }
        }
    }

    pub(crate) fn intersection(self, other: Self) -> Self {
        // De Morgan.
        self.complement().union(other.complement()).complement()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_ports_are_united_and_intersected() {
        let samples = || {
            [
                PortSet::none(),
                PortSet::all(),
                PortSet::Only([1, 2].to_vec()),
                PortSet::Only([2, 3].to_vec()),
                PortSet::AllBut([1, 2].to_vec()),
                PortSet::AllBut([2, 3].to_vec()),
            ]
        };
        for a in samples() {
            for b in samples() {
                for port in 1..=4 {
                    let (in_a, in_b) = (a.contains(port), b.contains(port));
                    assert_eq!(
                        a.clone().union(b.clone()).contains(port),
                        in_a || in_b,
                        "{a:?} {b:?} {port}"
                    );
                    assert_eq!(
                        a.clone().intersection(b.clone()).contains(port),
                        in_a && in_b,
                        "{a:?} {b:?} {port}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_port_is_a_plain_decimal_number() {
        assert_eq!((parse_port("1"), parse_port("65535")), (Ok(1), Ok(65535)));
        for bad in [
            "",
            "0",
            "65536",
            "+80",
            "080",
            "80 ",
            "*",
            "8*",
            "-1",
            "http",
            "99999999999",
        ] {
            assert!(parse_port(bad).is_err(), "{bad}");
        }
    }
}
