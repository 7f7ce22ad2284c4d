//! The short version: the committed corpus, and variations of it.

use std::{
    collections::BTreeSet,
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use super::{TARGETS, Target};

/// Variations of each target's corpus.
const VARIATIONS: usize = 2_000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz")
}

/// In the order of their names, so that a seed means the same everywhere.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = root().join("corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|why| panic!("{}: {why}", folder.display()));
    let paths: BTreeSet<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    paths.into_iter().map(|path| (path.display().to_string(), fs::read(path).expect("read"))).collect()
}

/// Random numbers that a seed repeats (SplitMix64): all that is asked of them.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// What parsers stumble over.
const WORDS: &[&[u8]] = &[
    b"\0",
    b"\n",
    b"\r\n",
    b"\t",
    b" ",
    b"\"",
    b"\\",
    b"'",
    b"%00",
    b"%",
    b"=",
    b"==",
    b";",
    b",",
    b":",
    b"//",
    b"/\\",
    b"..",
    b"[",
    b"]",
    b"{",
    b"}",
    b"$",
    b"-",
    b"--",
    b"+",
    b"@",
    b"\xff",
    b"\xc2\x85",
    "\u{2028}".as_bytes(),
    "ß".as_bytes(),
    "\u{feff}".as_bytes(),
    "İ".as_bytes(),
    b"null",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"[[[[[[[[",
    b"\\ud800",
    b"for=",
    b"::ffff:",
    b"127.0.0.1",
    b"unknown",
    b"hunter2",
    b"$access",
    b"$refresh",
    b"$csrf",
    b"asr_",
    b"asp_",
];

/// One input made into another.
fn vary(random: &mut Random, corpus: &[(String, Vec<u8>)]) -> Vec<u8> {
    let pick = |random: &mut Random| corpus[random.below(corpus.len())].1.clone();
    let mut input = pick(random);
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() + 1);
        match random.below(8) {
            0 => input.truncate(at),
            1 if at < input.len() => input[at] ^= 1 << random.below(8),
            2 if at < input.len() => input[at] = random.next() as u8,
            3 => {
                let end = (at + random.below(16)).min(input.len());
                input.drain(at..end);
            }
            4 => {
                let other = pick(random);
                input.truncate(at);
                input.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
            5 => {
                // The same again and again: what is not linear shows.
                let end = (at + 1 + random.below(16)).min(input.len());
                let part = input[at..end].to_vec().repeat(1 + random.below(200));
                input.splice(at..at, part);
            }
            _ => {
                let word = WORDS[random.below(WORDS.len())];
                input.splice(at..at, word.iter().copied());
            }
        }
    }
    input
}

/// Which of the inputs is the first that does not hold; the panic itself has said why.
fn first_failure(target: &str, property: fn(&[u8]), inputs: impl Iterator<Item = (String, Vec<u8>)>) -> Option<String> {
    for (name, input) in inputs {
        if catch_unwind(AssertUnwindSafe(|| property(&input))).is_err() {
            return Some(format!("{target}, {name}: {}", input.escape_ascii()));
        }
    }
    None
}

#[test]
fn every_target_has_a_program_and_a_corpus() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("tests/fuzz/Cargo.toml");
    let folders: BTreeSet<String> = fs::read_dir(root().join("corpus"))
        .expect("tests/fuzz/corpus")
        .map(|folder| folder.expect("a folder").file_name().into_string().expect("a name"))
        .collect();
    assert_eq!(folders, TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect());
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let program = fs::read_to_string(root().join(format!("targets/{name}.rs"))).expect("a program");
        assert!(program.contains(&format!("run(\"{name}\"")), "{name}");
    }
}

#[test]
fn the_corpus_holds() {
    let failures: Vec<String> = TARGETS
        .iter()
        .filter_map(|(target, property)| first_failure(target, *property, corpus(target).into_iter()))
        .collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn variations_of_the_corpus_hold() {
    let seed = env::var("FUZZ_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    println!("FUZZ_SEED={seed}");
    let failure = |(target, property): &Target| {
        let corpus = corpus(target);
        let mut random = Random(seed);
        let variations = (0..VARIATIONS).map(|n| (format!("variation {n}"), vary(&mut random, &corpus)));
        first_failure(target, *property, variations)
    };
    let failures: Vec<String> = TARGETS.iter().filter_map(failure).collect();
    assert!(failures.is_empty(), "FUZZ_SEED={seed} {failures:#?}");
}
