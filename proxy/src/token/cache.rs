//! Tokens whose signature was verified, one store per worker.
//!
//! Only good ones: what fails to verify is verified again, so that nobody can fill this with garbage, and a key that
//! arrives late is believed at once. Found by a keyed hash of the token's end, which is its signature, and compared
//! byte for byte, so that no collision can matter. Everything that may change is checked on every use, not here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Verified;

/// Of each of the two generations.
const ENTRIES: usize = 2048;
const BYTES: usize = 4 * 1024 * 1024;

/// How long a token may go unused, at least, before it is forgotten; twice that at most.
const UNUSED: Duration = Duration::from_secs(300);

/// What the hash looks at: the last bytes of the signature, of which no two good tokens have the same.
const TAIL: usize = 48;

#[derive(Default)]
pub(crate) struct Cache {
    generations: RefCell<Generations>,
    hasher: RandomState,
}

/// What is used moves to the young generation; when that is full or old enough it becomes the old one, and what was
/// there is forgotten.
#[derive(Default)]
struct Generations {
    young: HashMap<u64, Rc<Verified>>,
    old: HashMap<u64, Rc<Verified>>,
    bytes: usize,
    since: Option<Instant>,
}

impl Cache {
    pub(super) fn get(&self, text: &str) -> Option<Rc<Verified>> {
        let key = self.key(text);
        let mut generations = self.generations.borrow_mut();
        if let Some(known) = generations.young.get(&key) {
            return (known.text() == text).then(|| Rc::clone(known));
        }
        let known = generations.old.get(&key)?;
        if known.text() != text {
            return None;
        }
        let known = generations.old.remove(&key)?;
        generations.keep(key, Rc::clone(&known));
        Some(known)
    }

    pub(super) fn insert(&self, token: &Rc<Verified>) {
        let key = self.key(token.text());
        self.generations.borrow_mut().keep(key, Rc::clone(token));
    }

    /// Gives back the memory of what is not used any more.
    pub(crate) fn sweep(&self, clock: Instant) {
        let mut generations = self.generations.borrow_mut();
        let since = *generations.since.get_or_insert(clock);
        if clock.saturating_duration_since(since) >= UNUSED {
            generations.turn();
            generations.since = Some(clock);
        }
    }

    fn key(&self, text: &str) -> u64 {
        let bytes = text.as_bytes();
        let tail = &bytes[bytes.len().saturating_sub(TAIL)..];
        self.hasher.hash_one(tail)
    }
}

impl Generations {
    fn keep(&mut self, key: u64, token: Rc<Verified>) {
        let weight = token.weight();
        if self.young.len() >= ENTRIES || self.bytes + weight > BYTES {
            self.turn();
        }
        self.bytes += weight;
        if let Some(before) = self.young.insert(key, token) {
            self.bytes -= before.weight();
        }
    }

    fn turn(&mut self) {
        self.old = std::mem::take(&mut self.young);
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Issuer, claims, rules, verified};
    use super::*;

    #[test]
    fn what_was_put_in_is_found_byte_for_byte() {
        let issuer = Issuer::new();
        let rules = rules(&issuer);
        let cache = Cache::default();
        let token = issuer.sign(&claims());
        assert!(cache.get(&token).is_none());
        cache.insert(&verified(&token, &rules));
        assert!(cache.get(&token).is_some());
        // The same signature behind other claims, which an attacker can put together.
        let (_, signature) = token.rsplit_once('.').unwrap();
        let forged = format!("eyJhbGciOiJFUzI1NiJ9.e30.{signature}");
        assert!(cache.get(&forged).is_none());
        assert!(cache.get("").is_none());
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let issuer = Issuer::new();
        let rules = rules(&issuer);
        let cache = Cache::default();
        let used = issuer.sign(&claims());
        cache.insert(&verified(&used, &rules));
        let token = verified(&issuer.sign(&claims()), &rules);
        for key in 0..10 * ENTRIES as u64 {
            cache.generations.borrow_mut().keep(key, Rc::clone(&token));
            assert!(cache.get(&used).is_some());
            let generations = cache.generations.borrow();
            assert!(generations.young.len() <= ENTRIES && generations.old.len() <= ENTRIES);
            assert!(generations.bytes <= BYTES);
        }
    }

    #[test]
    fn what_is_not_used_is_forgotten() {
        let issuer = Issuer::new();
        let rules = rules(&issuer);
        let cache = Cache::default();
        let token = issuer.sign(&claims());
        cache.insert(&verified(&token, &rules));
        let start = Instant::now();
        for turn in 0..3 {
            cache.sweep(start + UNUSED * turn);
        }
        assert!(cache.get(&token).is_none());
    }
}
