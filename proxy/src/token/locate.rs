//! Finds the one token of a request, or that there is more than one.

use std::borrow::Cow;

use kith_policy::Reason;

use super::rules::Location;
use super::verify::Refused;
use super::{cookie, query};
use crate::headers::same_name;

/// All headers of a request that the application will see, names in any case.
pub(crate) trait AllHeaders<'a> {
    fn each(&self, visit: &mut dyn FnMut(&'a str, &'a [u8]));
}

pub(super) struct Found<'a> {
    pub(super) text: Cow<'a, str>,
    /// Where: one bit for each location.
    pub(super) at: u64,
}

/// One token, although it may be in several places. Two different ones are refused, since the application may look at
/// another than was verified; so is one in a header, parameter or cookie that occurs twice.
pub(super) fn locate<'a>(
    locations: &[Location],
    headers: &dyn AllHeaders<'a>,
    query: Option<&'a str>,
) -> Result<Option<Found<'a>>, Refused> {
    let mut search = Search {
        locations,
        found: None,
        seen: 0,
        problem: None,
    };
    headers.each(&mut |name, value| search.header(name, value));
    if let Some(query) = query {
        search.query(query);
    }
    match search.problem {
        Some(why) => Err(Refused {
            reason: Reason::TokenMalformed,
            why,
            end_user: None,
        }),
        None => Ok(search.found),
    }
}

struct Search<'l, 'a> {
    locations: &'l [Location],
    found: Option<Found<'a>>,
    /// Locations that something stood in, a token or not.
    seen: u64,
    problem: Option<String>,
}

impl<'a> Search<'_, 'a> {
    fn header(&mut self, name: &'a str, value: &'a [u8]) {
        let is_cookie = name.eq_ignore_ascii_case("cookie");
        for (index, location) in self.locations.iter().enumerate() {
            match location {
                Location::Header { name: own, prefix } if same_name(own, name) => {
                    self.see(index);
                    if let Some(token) = behind(prefix, value) {
                        self.offer(index, std::str::from_utf8(token).map(Cow::Borrowed).ok());
                    }
                }
                Location::Cookie(own) if is_cookie => {
                    for (name, token) in cookie::pairs(value) {
                        if name == own.as_bytes() {
                            self.see(index);
                            self.offer(index, std::str::from_utf8(token).map(Cow::Borrowed).ok());
                        }
                    }
                    if cookie::hidden(value).any(|name| name == own.as_bytes()) {
                        self.hide(index);
                    }
                }
                _ => {}
            }
        }
    }

    fn query(&mut self, query: &'a str) {
        for (index, location) in self.locations.iter().enumerate() {
            if let Location::Param(own) = location {
                for (name, token) in query::parameters(query) {
                    if query::decode(name) == own.as_str() {
                        self.see(index);
                        self.offer(index, Some(query::decode(token)));
                    }
                }
                if query::hidden(query).any(|name| query::decode(name) == own.as_str()) {
                    self.hide(index);
                }
            }
        }
    }

    fn see(&mut self, index: usize) {
        let bit = 1 << index;
        if self.seen & bit != 0 {
            self.problem = Some(format!("{} occurs twice", self.locations[index]));
        }
        self.seen |= bit;
    }

    /// Some applications would find it there and others would not: nobody knows whose token would be taken.
    fn hide(&mut self, index: usize) {
        self.problem = Some(format!(
            "{} stands inside of another one's value",
            self.locations[index]
        ));
    }

    /// `None`: what stands there is no text.
    fn offer(&mut self, index: usize, text: Option<Cow<'a, str>>) {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            self.problem = Some(format!("{} holds no token", self.locations[index]));
            return;
        };
        match &mut self.found {
            None => {
                let at = 1 << index;
                self.found = Some(Found { text, at });
            }
            Some(found) if found.text == text => found.at |= 1 << index,
            Some(found) => {
                let first = found.at.trailing_zeros() as usize;
                self.problem = Some(format!(
                    "{} and {} hold different tokens",
                    self.locations[first], self.locations[index]
                ));
            }
        }
    }
}

/// What follows the prefix; `None` when something else is meant. A prefix that ends with a space is an authentication
/// scheme: in any case, and any white space behind it (RFC 9110 section 11.1, RFC 6750 section 2.1), so that no
/// spelling that an application may accept goes by unverified.
fn behind<'v>(prefix: &str, value: &'v [u8]) -> Option<&'v [u8]> {
    let scheme = prefix.trim_end();
    let (said, rest) = value.split_at_checked(scheme.len())?;
    if scheme.len() == prefix.len() {
        return (said == prefix.as_bytes()).then_some(rest);
    }
    let ends = rest.first().is_none_or(u8::is_ascii_whitespace);
    (said.eq_ignore_ascii_case(scheme.as_bytes()) && ends).then(|| rest.trim_ascii())
}
