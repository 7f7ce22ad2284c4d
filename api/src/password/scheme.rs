//! How a password becomes an output: argon2id as this service does it, or what another system did before it was taken
//! over. Its text is what `auth.users.password_params` keeps:
//!
//! | | |
//! |---|---|
//! | `m=65536,t=3,p=1` | argon2id, version 19, 32 bytes of output: what this service makes |
//! | `argon2i,v=19,l=32,m=4096,t=3,p=1` | any other argon2: its name, version, length of the output, and the same parameters |
//! | `bcrypt,2b,12` | bcrypt and its cost; 23 bytes of output. `2a` and `2y` are other names of the same function |
//!
//! The salt is kept beside it, raw. A verifier that is not of the first kind, with today's parameters, is renewed at the
//! next login.

use std::{fmt, str::FromStr};

use argon2::{Algorithm, Argon2, Block, Version};
use zeroize::Zeroizing;

/// Argon2 memory, kept between hashes: getting 64 MiB from the kernel and giving them back costs a fifth of a hash.
pub type Memory = Vec<Block>;

/// Argon2 parameters, in the words of RFC 9106.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub iterations: u32,
    /// Lanes.
    pub parallelism: u32,
}

impl Params {
    /// Checks the bounds: what argon2 allows, and no more than this process can afford. A row of the database must not
    /// be able to ask for a terabyte.
    pub fn checked(self) -> Result<Self, String> {
        let Self { memory_kib: m, iterations: t, parallelism: p } = self;
        let cost = u64::from(m) * u64::from(t);
        if (1..=16).contains(&p) && (8 * p..=1024 * 1024).contains(&m) && t >= 1 && cost <= 8 * 1024 * 1024 {
            Ok(self)
        } else {
            Err(format!(
                "argon2 parameters m={m},t={t},p={p} are out of bounds: p 1 to 16, m 8*p to 1048576 KiB, t at least 1, \
                 m*t at most 8388608"
            ))
        }
    }
}

impl fmt::Display for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m={},t={},p={}", self.memory_kib, self.iterations, self.parallelism)
    }
}

impl FromStr for Params {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let mut parts = text.split(',');
            let mut next = |name| parts.next()?.strip_prefix(name)?.parse().ok();
            let params = Self { memory_kib: next("m=")?, iterations: next("t=")?, parallelism: next("p=")? };
            parts.next().is_none().then_some(params)
        };
        parse().ok_or_else(|| "argon2 parameters are not of the form m=…,t=…,p=…".to_owned())?.checked()
    }
}

/// The bytes of output that bcrypt's text form keeps, of 24.
pub const BCRYPT_OUTPUT: usize = 23;
/// The bytes of a password that bcrypt looks at, a NUL behind it among them.
const BCRYPT_INPUT: usize = 72;

/// How a password becomes an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// RFC 9106, and what was before it.
    Argon2 {
        /// Argon2id in what this service makes.
        algorithm: Algorithm,
        /// 19 (0x13) in what this service makes.
        version: Version,
        /// In bytes; 32 in what this service makes.
        output_length: usize,
        /// The costs.
        params: Params,
    },
    /// The function `2b`.
    Bcrypt {
        /// Doubles the work with each step.
        cost: u32,
    },
}

impl Scheme {
    /// Any argon2, when its costs and lengths are within bounds.
    pub fn argon2(algorithm: Algorithm, version: u32, output_length: usize, params: Params) -> Result<Self, String> {
        let version = Version::try_from(version).map_err(|_| format!("argon2 has no version {version}"))?;
        // Less would be guessed by luck; longer ones nobody makes.
        if !(16..=128).contains(&output_length) {
            return Err(format!("an argon2 output of {output_length} bytes is out of bounds: 16 to 128"));
        }
        Ok(Self::Argon2 { algorithm, version, output_length, params: params.checked()? })
    }

    /// Bcrypt, when its cost is within bounds: one of 16 takes some four seconds.
    pub fn bcrypt(cost: u32) -> Result<Self, String> {
        if (4..=16).contains(&cost) {
            Ok(Self::Bcrypt { cost })
        } else {
            Err(format!("a bcrypt cost of {cost} is out of bounds: 4 to 16"))
        }
    }

    /// The output for a password. Takes as long as the costs say: not for an async thread.
    pub fn output(self, password: &str, salt: &[u8], memory: &mut Memory) -> Result<Zeroizing<Vec<u8>>, String> {
        match self {
            Self::Argon2 { algorithm, version, output_length, params } => {
                let Params { memory_kib, iterations, parallelism } = params;
                let mut output = Zeroizing::new(vec![0; output_length]);
                argon2::Params::new(memory_kib, iterations, parallelism, Some(output_length))
                    .and_then(|params| {
                        if memory.len() < params.block_count() {
                            memory.resize(params.block_count(), Block::default());
                        }
                        let argon2 = Argon2::new(algorithm, version, params);
                        argon2.hash_password_into_with_memory(password.as_bytes(), salt, &mut output, memory)
                    })
                    .map_err(|error| error.to_string())?;
                Ok(output)
            }
            Self::Bcrypt { cost } => {
                let salt = salt.try_into().map_err(|_| "a bcrypt salt has 16 bytes".to_owned())?;
                // It sees no more of a longer password; nor did the system that made the hash.
                let mut input = Zeroizing::new(Vec::with_capacity(BCRYPT_INPUT));
                input.extend(password.bytes().chain([0]).take(BCRYPT_INPUT));
                let output = Zeroizing::new(bcrypt::bcrypt(cost, salt, &input));
                Ok(Zeroizing::new(output[..BCRYPT_OUTPUT].to_vec()))
            }
        }
    }
}

impl From<Params> for Scheme {
    fn from(params: Params) -> Self {
        Self::Argon2 { algorithm: Algorithm::Argon2id, version: Version::V0x13, output_length: 32, params }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Argon2 { params, .. } if *self == Self::from(params) => params.fmt(f),
            Self::Argon2 { algorithm, version, output_length, params } => {
                write!(f, "{algorithm},v={},l={output_length},{params}", u32::from(version))
            }
            Self::Bcrypt { cost } => write!(f, "bcrypt,2b,{cost}"),
        }
    }
}

impl FromStr for Scheme {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(cost) = text.strip_prefix("bcrypt,2b,") {
            return Self::bcrypt(cost.parse().map_err(|_| "a bcrypt cost is not a number")?);
        }
        let mut parts = text.splitn(4, ',');
        let Some(algorithm) = parts.next().and_then(|name| Algorithm::new(name).ok()) else {
            return Ok(text.parse::<Params>()?.into());
        };
        let mut next = |name| parts.next()?.strip_prefix(name)?.parse::<u32>().ok();
        match (next("v="), next("l="), parts.next()) {
            (Some(version), Some(length), Some(params)) => {
                Self::argon2(algorithm, version, length as usize, params.parse()?)
            }
            _ => Err(format!("{algorithm} parameters are not of the form v=…,l=…,m=…,t=…,p=…")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Params = Params { memory_kib: 64, iterations: 1, parallelism: 1 };

    #[test]
    fn parameters_outside_the_bounds_are_refused() {
        assert_eq!("m=65536,t=3,p=1".parse::<Params>().unwrap().to_string(), "m=65536,t=3,p=1");
        for text in [
            "",
            "m=65536,t=3",
            "m=65536,t=3,p=1,x=1",
            "m=65536,t=0,p=1",
            "m=7,t=1,p=1",
            "m=64,t=1,p=0",
            "m=65536,t=1,p=17",
            "m=1048577,t=1,p=1",
            "m=1048576,t=9,p=1",
            "m=-1,t=1,p=1",
            "t=3,m=65536,p=1",
        ] {
            assert!(text.parse::<Params>().is_err(), "{text}");
            assert!(text.parse::<Scheme>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_scheme_has_one_spelling() {
        for text in [
            "m=65536,t=3,p=1",
            "argon2i,v=19,l=32,m=4096,t=3,p=1",
            "argon2d,v=16,l=16,m=64,t=1,p=2",
            "argon2id,v=19,l=64,m=65536,t=3,p=1",
            "bcrypt,2b,12",
        ] {
            assert_eq!(text.parse::<Scheme>().unwrap().to_string(), text);
        }
        let ours = "argon2id,v=19,l=32,m=65536,t=3,p=1".parse::<Scheme>().unwrap();
        assert_eq!(ours.to_string(), "m=65536,t=3,p=1");
    }

    #[test]
    fn a_scheme_out_of_bounds_or_of_another_form_is_refused() {
        for text in [
            "bcrypt",
            "bcrypt,2b,",
            "bcrypt,2b,3",
            "bcrypt,2b,17",
            "bcrypt,2b,31",
            "bcrypt,2x,12",
            "bcrypt,12",
            "argon2i",
            "argon2i,m=4096,t=3,p=1",
            "argon2i,v=18,l=32,m=4096,t=3,p=1",
            "argon2i,v=19,l=15,m=4096,t=3,p=1",
            "argon2i,v=19,l=1000000000,m=4096,t=3,p=1",
            "argon2i,v=19,l=32,m=4096,t=3000000,p=1",
            "argon2i,v=19,l=32,m=4096,t=3,p=1,x=1",
            "argon3,v=19,l=32,m=4096,t=3,p=1",
            "scrypt,16384,8,1",
        ] {
            assert!(text.parse::<Scheme>().is_err(), "{text}");
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn argon2_is_the_reference_one_whatever_the_memory_was_used_for_before() {
        let mut used = Memory::new();
        let large = Scheme::from(Params { memory_kib: 512, ..CHEAP });
        large.output("something else", &[9; 16], &mut used).unwrap();
        // Vectors of the reference implementation's own tests (phc-winner-argon2, src/test.c).
        let params = Params { memory_kib: 256, iterations: 2, parallelism: 1 };
        let vectors = [
            (Algorithm::Argon2id, 19, "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe"),
            (Algorithm::Argon2i, 19, "89e9029f4637b295beb027056a7336c414fadd43f6b208645281cb214a56452f"),
            (Algorithm::Argon2i, 16, "fd4dd83d762c49bdeaf57c47bdcd0c2f1babf863fdeb490df63ede9975fccf06"),
        ];
        for (algorithm, version, expected) in vectors {
            let scheme = Scheme::argon2(algorithm, version, 32, params).unwrap();
            assert_eq!(hex(&scheme.output("password", b"somesalt", &mut used).unwrap()), expected);
        }
    }

    #[test]
    fn bcrypt_sees_72_bytes_and_wants_a_salt_of_16() {
        let scheme = Scheme::bcrypt(4).unwrap();
        let output = |password: &str| scheme.output(password, &[7; 16], &mut Memory::new()).unwrap();
        let long = "x".repeat(72);
        assert_eq!(output(&long), output(&format!("{long}y")));
        assert_ne!(output(&long), output(&long[1..]));
        assert_eq!(output("short").len(), BCRYPT_OUTPUT);
        assert!(scheme.output("short", &[7; 15], &mut Memory::new()).is_err());
    }
}
