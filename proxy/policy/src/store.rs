//! The values of one policy, in one list for each type of them.
//!
//! A sidecar may hold a hundred thousand rules. A list of its own for each field of each would cost more memory
//! than what stands in it, and its place in memory would be far from the next one's.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::marker::PhantomData;

use ipnet::IpNet;

use crate::cel::Program;
use crate::index::{Keyed, hash};
use crate::pattern::{Account, HostPattern, Pattern, PrincipalPattern, TokenPrincipal};

/// A string of a policy: where it stands in the text of its [`Store`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Text {
    start: u32,
    len: u32,
}

/// Values that stand side by side in the list of their type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<T> {
    start: u32,
    len: u32,
    of: PhantomData<fn() -> T>,
}

impl<T> Run<T> {
    pub(crate) fn of(self, list: &[T]) -> &[T] {
        let start = self.start as usize;
        &list[start..start + self.len as usize]
    }
}

#[derive(Debug)]
pub(crate) struct Store {
    text: Box<str>,
    pub(crate) patterns: Box<[Pattern<Text>]>,
    pub(crate) principals: Box<[PrincipalPattern<Text>]>,
    pub(crate) accounts: Box<[Account<Text>]>,
    pub(crate) hosts: Box<[HostPattern<Text>]>,
    pub(crate) token_principals: Box<[TokenPrincipal<Text>]>,
    pub(crate) blocks: Box<[IpNet]>,
    pub(crate) ports: Box<[u16]>,
    pub(crate) programs: Box<[Program]>,
}

impl Store {
    pub(crate) fn text(&self, text: Text) -> &str {
        let start = text.start as usize;
        &self.text[start..start + text.len as usize]
    }

    /// Like [`text`](Self::text), for comparing.
    pub(crate) fn bytes(&self, text: Text) -> &[u8] {
        let start = text.start as usize;
        &self.text.as_bytes()[start..start + text.len as usize]
    }
}

/// A [`Store`] in the making.
#[derive(Default)]
pub(crate) struct StoreBuilder {
    text: String,
    /// By hash: each string is kept once, unless it has the hash of another.
    known: HashMap<u64, Text, BuildHasherDefault<Keyed>>,
    pub(crate) patterns: Vec<Pattern<Text>>,
    pub(crate) principals: Vec<PrincipalPattern<Text>>,
    pub(crate) accounts: Vec<Account<Text>>,
    pub(crate) hosts: Vec<HostPattern<Text>>,
    pub(crate) token_principals: Vec<TokenPrincipal<Text>>,
    pub(crate) blocks: Vec<IpNet>,
    pub(crate) ports: Vec<u16>,
    pub(crate) programs: Vec<Program>,
}

impl StoreBuilder {
    pub(crate) fn text(&mut self, text: &str) -> Text {
        let key = hash(text);
        if let Some(&known) = self.known.get(&key) {
            let start = known.start as usize;
            if self.text.get(start..start + known.len as usize) == Some(text) {
                return known;
            }
        }
        let new = Text {
            start: offset(self.text.len()),
            len: offset(text.len()),
        };
        self.text.push_str(text);
        self.known.insert(key, new);
        new
    }

    pub(crate) fn finish(self) -> Store {
        Store {
            text: self.text.into(),
            patterns: self.patterns.into(),
            principals: self.principals.into(),
            accounts: self.accounts.into(),
            hosts: self.hosts.into(),
            token_principals: self.token_principals.into(),
            blocks: self.blocks.into(),
            ports: self.ports.into(),
            programs: self.programs.into(),
        }
    }
}

/// Puts values behind the others of their type.
pub(crate) fn append<T>(list: &mut Vec<T>, values: impl IntoIterator<Item = T>) -> Run<T> {
    let start = list.len();
    list.extend(values);
    Run {
        start: offset(start),
        len: offset(list.len() - start),
        of: PhantomData,
    }
}

/// It fits: a policy travels in one message, and those are smaller than 4 GiB (protobuf's own limit is 2).
pub(crate) fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraint::Constraint;

    #[test]
    fn each_string_is_kept_once() {
        let mut builder = StoreBuilder::default();
        let texts =
            ["GET", "POST", "GET", "", "é", "GE", ""].map(|text| (builder.text(text), text));
        let store = builder.finish();
        for (text, expected) in texts {
            assert_eq!(store.text(text), expected);
        }
        assert_eq!(&*store.text, "GETPOSTéGE");
    }

    /// A hundred thousand rules are made of these (`cargo bench -p kith-policy --bench load`).
    #[test]
    fn what_there_are_many_of_is_small() {
        assert!(size_of::<Constraint>() <= 24);
        assert!(size_of::<Pattern<Text>>() <= 12);
        assert!(size_of::<PrincipalPattern<Text>>() <= 24);
    }
}
