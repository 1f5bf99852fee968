//! `host[:port]`, in Host and in request targets.

use std::net::Ipv6Addr;

use super::grammar::ascii;

/// Whether this is a host with, where given, a port: narrower than RFC 3986 section 3.2, which
/// also has userinfo (refused, RFC 9110 section 4.2.4), percent-encoding, sub-delimiters such as
/// `,` and empty ports. No DNS name needs these, and servers read them differently.
pub(super) fn is_authority(authority: &[u8]) -> bool {
    let (host, port) = split(authority);
    is_host(host) && port.is_none_or(is_port)
}

pub(super) fn is_authority_with_port(authority: &[u8]) -> bool {
    is_authority(authority) && split(authority).1.is_some()
}

/// The host, brackets included, and what follows its colon.
fn split(authority: &[u8]) -> (&[u8], Option<&[u8]>) {
    let after_host = match authority {
        [b'[', ..] => memchr::memchr(b']', authority).map_or(authority.len(), |close| close + 1),
        _ => memchr::memchr(b':', authority).unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at(after_host);
    match rest {
        [] => (host, None),
        [b':', port @ ..] => (host, Some(port)),
        // Bytes between `]` and `:`: no host at all.
        _ => (&[], None),
    }
}

fn is_host(host: &[u8]) -> bool {
    match host {
        [] => false,
        [b'[', address @ .., b']'] => ascii(address).parse::<Ipv6Addr>().is_ok(),
        name => name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(byte)),
    }
}

fn is_port(port: &[u8]) -> bool {
    (1..=5).contains(&port.len())
        && port.iter().all(u8::is_ascii_digit)
        && ascii(port).parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_04_accepts_hosts_with_and_without_port_and_nothing_else() {
        for good in [
            "a",
            "orders.shop.svc",
            "orders.shop.svc.:8080",
            "Under_score",
            "10.0.0.1:80",
            "[::1]",
            "[2001:db8::1]:443",
            "[::ffff:10.0.0.1]:1",
        ] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a:",
            "a:b",
            "a:65536",
            "a:000080",
            "a:+80",
            "a:80:80",
            "a b",
            "a,b",
            "a@b",
            "user:pass@a",
            "a/b",
            "a?b",
            "a\\b",
            "a%2eb",
            "::1",
            "[::1",
            "[::1]80",
            "[::1]x:80",
            "[fe80::1%25eth0]",
            "[v1.x]",
            "[]",
            "h\u{f6}st",
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
        assert!(is_authority_with_port(b"a:443"));
        assert!(!is_authority_with_port(b"a"));
    }
}
