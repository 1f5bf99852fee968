//! Addresses in one form. Every address that enters a decision, a comparison or a record passes through here first.

use std::net::{IpAddr, SocketAddr};

/// IPv4-mapped IPv6 (RFC 4291 section 2.5.5.2) is the IPv4 address it carries: a dual-stack listener reports
/// IPv4 peers that way, and a policy about 10.0.0.0/8 means them too.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(canonical_ip(address.ip()), address.port())
}

pub(crate) fn canonical_ip(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_18_mapped_addresses_become_ipv4() {
        let mapped: SocketAddr = "[::ffff:10.1.2.3]:80".parse().unwrap();
        assert_eq!(canonical(mapped), "10.1.2.3:80".parse().unwrap());
        let v6: SocketAddr = "[fd00::1]:80".parse().unwrap();
        assert_eq!(canonical(v6), v6);
    }
}
