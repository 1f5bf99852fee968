//! One program for all targets, built once; `KITH_FUZZ` names the one to run. `tests/fuzz/run` builds and runs it.
//!
//! A target holds a parser to more than not panicking: what it says must be consistent with itself, as the
//! comment at each target states. Time and memory are held by libFuzzer's own limits.

#![cfg_attr(fuzzing, no_main)]

mod certificates;
mod http1;
mod policies;
mod resources;
mod tokens;

/// A name, and what reads the input.
type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 14] = [
    ("detect", http1::detect),
    ("request", http1::request),
    ("response", http1::response),
    ("body", http1::body),
    ("correlation", http1::correlation),
    ("target", policies::target),
    ("yaml", policies::yaml),
    ("cel", policies::cel),
    ("svid", certificates::svid),
    ("bundle", certificates::bundle),
    ("token", tokens::token),
    ("locate", tokens::locate),
    ("forwarded", http1::forwarded),
    ("xds", resources::xds),
];

#[cfg(fuzzing)]
mod run {
    use std::sync::OnceLock;

    use super::TARGETS;

    fn chosen() -> fn(&[u8]) {
        static CHOSEN: OnceLock<fn(&[u8])> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let name = std::env::var("KITH_FUZZ").unwrap_or_default();
            let known = TARGETS.iter().find(|(known, _)| *known == name);
            match known {
                Some((_, target)) => *target,
                None => panic!(
                    "KITH_FUZZ={name:?} is no target: {:?}",
                    TARGETS.map(|(name, _)| name)
                ),
            }
        })
    }

    libfuzzer_sys::fuzz_target!(|data: &[u8]| chosen()(data));
}

/// Without libFuzzer: the targets once over the files given, to look at one input or to check the corpus.
#[cfg(not(fuzzing))]
fn main() {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("--list") => TARGETS.iter().for_each(|(name, _)| println!("{name}")),
        Some(name) => match TARGETS.iter().find(|(known, _)| *known == name) {
            Some((_, target)) => {
                for file in arguments {
                    match std::fs::read(&file) {
                        Ok(bytes) => target(&bytes),
                        Err(error) => panic!("{file}: {error}"),
                    }
                }
            }
            None => panic!("{name:?} is no target; --list names them"),
        },
        None => println!("kith-fuzz TARGET FILE…, or --list; to fuzz: tests/fuzz/run"),
    }
}
