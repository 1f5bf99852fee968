//! What the fuzz targets need and nobody else may use. Compiled by tests/fuzz/run alone.

use std::net::IpAddr;

use kith_policy::Headers;

use crate::authorize::Named;
use crate::{authorize, correlation, token};

/// Ids from a caller come out well-formed, and what is sent on is read as what was recorded.
pub fn correlation(given: &[u8]) {
    let (id, new) = correlation::request_id(Some(given));
    assert!(new || id.as_str().as_bytes() == given);
    assert!(id.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
    assert!((1..=128).contains(&id.as_str().len()));

    let (trace, header) = correlation::trace(Some(given));
    assert!(trace.trace_id != [0; 16] && trace.span_id != [0; 8]);
    let (next, _) = correlation::trace(Some(&header));
    assert_eq!(next.trace_id, trace.trace_id);
    assert_eq!(next.parent_id, Some(trace.span_id));
}

/// Tokens are gone from where they were found, and from what is written down.
pub fn locate(data: &[u8]) {
    token::fuzzing::locate(data);
}

struct ForwardedFor<'a>(Vec<&'a [u8]>);

impl Headers for ForwardedFor<'_> {
    fn for_each(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        if name == "x-forwarded-for" {
            self.0.iter().for_each(|value| visit(value));
        }
    }
}

/// Nobody left of the trusted hops has a say; the first byte is how many there are, each line a header.
pub fn remote_address(data: &[u8]) {
    let Some((hops, text)) = data.split_first() else {
        return;
    };
    let hops = usize::from(*hops % 8);
    let values: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    let named = authorize::named_by_hops(&ForwardedFor(values.clone()), hops);
    let entries: Vec<&[u8]> = values
        .iter()
        .flat_map(|value| value.split(|byte| *byte == b','))
        .collect();
    if hops == 0 || hops > entries.len() {
        assert!(!matches!(named, Named::Address(_)));
        return;
    }
    for spoofed in ["192.0.2.1", "192.0.2.1, 192.0.2.2", "", ","] {
        let with = [&[spoofed.as_bytes()], &values[..]].concat();
        assert_eq!(authorize::named_by_hops(&ForwardedFor(with), hops), named);
    }
    let text = String::from_utf8_lossy(entries[entries.len() - hops]);
    let said: Result<IpAddr, _> = text.trim().parse();
    match (said, named) {
        (Ok(said), named) => assert_eq!(named, Named::Address(said.to_canonical())),
        // With a port or in brackets, or no address.
        (Err(_), named) => assert_ne!(named, Named::Nothing),
    }
}
