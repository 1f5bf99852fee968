//! Sets of ports, finite or all but a finite set: on which ports can a rule match?

use std::collections::BTreeSet;

/// A decimal port number, 1 to 65535, written the one way it is written.
pub(crate) fn parse_port(value: &str) -> Result<u16, String> {
    let canonical = !value.is_empty()
        && value.len() <= 5
        && value.bytes().all(|b| b.is_ascii_digit())
        && !value.starts_with('0');
    match value.parse() {
        Ok(port) if canonical => Ok(port),
        _ => Err(format!(
            "`{value}` is not a port: a decimal number from 1 to 65535"
        )),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PortSet {
    Only(BTreeSet<u16>),
    AllBut(BTreeSet<u16>),
}

impl PortSet {
    pub(crate) fn none() -> Self {
        Self::Only(BTreeSet::new())
    }

    pub(crate) fn all() -> Self {
        Self::AllBut(BTreeSet::new())
    }

    pub(crate) fn contains(&self, port: u16) -> bool {
        match self {
            Self::Only(ports) => ports.contains(&port),
            Self::AllBut(ports) => !ports.contains(&port),
        }
    }

    fn complement(self) -> Self {
        match self {
            Self::Only(ports) => Self::AllBut(ports),
            Self::AllBut(ports) => Self::Only(ports),
        }
    }

    /// What `ports` (or, negated, `notPorts`) leaves of a set.
    pub(crate) fn restrict(self, ports: &[u16], negative: bool) -> Self {
        let ports: BTreeSet<_> = ports.iter().copied().collect();
        self.intersection(if negative {
            Self::AllBut(ports)
        } else {
            Self::Only(ports)
        })
    }

    pub(crate) fn union(self, other: Self) -> Self {
        match (self, other) {
            // The smaller into the larger: a set of thousands is joined by thousands of small ones.
            (Self::Only(a), Self::Only(b)) => {
                let (mut large, small) = if a.len() < b.len() { (b, a) } else { (a, b) };
                large.extend(small);
                Self::Only(large)
            }
            (Self::AllBut(mut but), Self::Only(ports))
            | (Self::Only(ports), Self::AllBut(mut but)) => {
                but.retain(|port| !ports.contains(port));
                Self::AllBut(but)
            }
            (Self::AllBut(mut a), Self::AllBut(b)) => {
                a.retain(|port| b.contains(port));
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
                PortSet::Only([1, 2].into()),
                PortSet::Only([2, 3].into()),
                PortSet::AllBut([1, 2].into()),
                PortSet::AllBut([2, 3].into()),
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
