//! Addresses and CIDRs, canonical (row 18).

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::words;

/// Sorted and disjoint: of two blocks that overlap, one contains the other and stands for both.
pub(crate) fn blocks(values: &[String], refuse: &mut dyn FnMut(usize, String)) -> Vec<IpNet> {
    let mut blocks = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        match block(value) {
            Ok(block) => blocks.push(block),
            Err(message) => refuse(index, message),
        }
    }
    // The wider first, of those that begin at the same address.
    blocks.sort_unstable_by_key(|block| (block.network(), block.prefix_len()));
    blocks.dedup_by(|block, before| before.contains(&*block));
    blocks
}

/// Of blocks as [`blocks`] gives them. `address` is canonical: IPv4 is never IPv4-mapped IPv6.
pub(crate) fn in_blocks(blocks: &[IpNet], address: IpAddr) -> bool {
    let after = blocks.partition_point(|block| block.network() <= address);
    after
        .checked_sub(1)
        .is_some_and(|at| blocks[at].contains(&address))
}

/// An address or CIDR. Bits behind the prefix are ignored. An IPv4-mapped block is the IPv4 block.
fn block(value: &str) -> Result<IpNet, String> {
    let net: IpNet = match value.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().into(),
        Err(_) => value
            .parse()
            .map_err(|_| format!("`{value}`{}", words::NOT_A_BLOCK))?,
    };
    let mapped = match net {
        IpNet::V6(net) => net
            .addr()
            .to_ipv4_mapped()
            .map(|address| (address, net.prefix_len())),
        IpNet::V4(_) => None,
    };
    match mapped {
        None => Ok(net.trunc()),
        Some((address, prefix)) => prefix
            .checked_sub(IPV4_MAPPED_PREFIX)
            .and_then(|prefix| Ipv4Net::new(address, prefix).ok())
            .map(|net| IpNet::V4(net.trunc()))
            .ok_or_else(|| format!("`{value}` covers more than IPv4-mapped addresses; write an IPv4 or a plain IPv6 CIDR")),
    }
}

const IPV4_MAPPED_PREFIX: u8 = 96;
const _: () = assert!(Ipv6Addr::BITS - 32 == IPV4_MAPPED_PREFIX as u32);

#[cfg(test)]
mod tests {
    use super::*;

    fn set(values: &[&str]) -> Vec<IpNet> {
        let values: Vec<_> = values.iter().map(|value| (*value).to_owned()).collect();
        blocks(&values, &mut |_, message| panic!("{message}"))
    }

    #[test]
    fn row_18_addresses_and_blocks_are_canonical() {
        for (block, inside, outside) in [
            (
                "10.0.0.0/8",
                &["10.0.0.0", "10.255.255.255"][..],
                &["11.0.0.0", "9.255.255.255", "::a00:1"][..],
            ),
            ("10.1.2.3/8", &["10.0.0.0"], &["11.0.0.0"]),
            ("10.1.2.3", &["10.1.2.3"], &["10.1.2.4"]),
            ("::ffff:10.0.0.0/104", &["10.1.2.3"], &["11.0.0.0"]),
            ("::ffff:10.1.2.3", &["10.1.2.3"], &["10.1.2.4"]),
            ("0.0.0.0/0", &["10.1.2.3", "255.255.255.255"], &["::1"]),
            ("::/0", &["::1", "ffff::"], &["10.1.2.3"]),
            ("2001:db8::/32", &["2001:db8::1"], &["2001:db9::1"]),
        ] {
            let set = set(&[block]);
            for address in inside {
                assert!(
                    in_blocks(&set, address.parse().unwrap()),
                    "{block} {address}"
                );
            }
            for address in outside {
                assert!(
                    !in_blocks(&set, address.parse().unwrap()),
                    "{block} {address}"
                );
            }
        }
    }

    #[test]
    fn overlapping_blocks_are_one_set() {
        let set = set(&[
            "10.2.0.0/16",
            "10.0.0.0/8",
            "192.168.0.1",
            "10.3.0.0/16",
            "::/64",
        ]);
        assert_eq!(set.len(), 3);
        for (address, expected) in [
            ("10.255.0.1", true),
            ("10.2.0.1", true),
            ("11.0.0.1", false),
            ("192.168.0.1", true),
            ("192.168.0.2", false),
            ("::1", true),
            ("0:0:0:1::", false),
        ] {
            assert_eq!(
                in_blocks(&set, address.parse().unwrap()),
                expected,
                "{address}"
            );
        }
    }

    #[test]
    fn what_is_not_an_address_is_refused() {
        for value in [
            "",
            "*",
            "10.0.0.0/33",
            "10.0.0",
            "10.*",
            "fe80::1%eth0",
            "a",
            "10.0.0.0/",
            "::ffff:0:0/90",
        ] {
            let mut refused = false;
            blocks(&[value.to_owned()], &mut |_, _| refused = true);
            assert!(refused, "{value}");
        }
    }
}
