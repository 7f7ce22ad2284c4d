//! What a stranger can send, as one function for each kind of it: bytes in, a panic when something does not hold that must
//! hold for *every* input. "It does not crash" is the least of it.
//!
//! `tests/fuzz` gives them to libFuzzer; the tests below give them the committed corpus and some thousand variations of it, on
//! plain stable Rust. Compiled for these two only, so that the compiler still finds what the service itself does not use.

mod accounts;
mod fields;
mod proxies;
mod service;
mod tokens;

use std::str;

type Target = (&'static str, fn(&[u8]));

/// Every target, by the name of its program and of its corpus in `tests/fuzz`.
const TARGETS: &[Target] = &[
    ("access_tokens", tokens::access_tokens),
    ("cookies", tokens::cookies),
    ("cursors", fields::cursors),
    ("devices", fields::devices),
    ("fields", fields::fields),
    ("json_bodies", service::json_bodies),
    ("mapping_files", accounts::mapping_files),
    ("password_hashes", accounts::password_hashes),
    ("proxies", proxies::proxies),
    ("refresh_tokens", tokens::refresh_tokens),
    ("requests", service::requests),
    ("slugs", fields::slugs),
];

/// Runs one.
pub fn run(target: &str, input: &[u8]) {
    let (_, check) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target of that name");
    check(input);
}

/// Two keys, one for each setting that is a ring: whoever reads this can make tokens, which is what the targets need.
const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const OTHER_KEY: &str = "f00102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// The input as lines of text; none when it is no text.
fn lines(input: &[u8]) -> Option<str::Split<'_, char>> {
    str::from_utf8(input).ok().map(|text| text.split('\n'))
}

#[cfg(test)]
mod tests;
