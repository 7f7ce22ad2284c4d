//! What a session's `lineage_key` can prove: tickets and jtis. Pure: no PostgreSQL in here.
//!
//! The key is random, belongs to one session and never leaves the database. With it the database recognises every
//! refresh token (by its ticket) and every access token (by its jti) that the session ever issued, of any age, without
//! storing one of them; and nobody without the key can invent one.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Length of a ticket, in bytes.
pub const TICKET_LENGTH: usize = 16;

/// HMAC-SHA-256 (RFC 2104) over the concatenated parts.
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// SHA-256 of a proof: the verifier.
pub fn verifier_of(proof: &[u8]) -> [u8; 32] {
    Sha256::digest(proof).into()
}

/// Equality in constant time; different lengths are unequal.
pub fn equal_digests(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// The ticket of the refresh token of that generation and verifier.
pub fn make_ticket(lineage_key: &[u8], generation: i32, verifier: &[u8]) -> [u8; TICKET_LENGTH] {
    let mac = hmac_sha256(lineage_key, &[b"ticket", &generation.to_be_bytes(), verifier]);
    mac[..TICKET_LENGTH].try_into().expect("a MAC is longer than a ticket")
}

/// The jti of an access token: a UUIDv8 (RFC 9562, section 5.8) of the generation, the second of issue (Unix time) and
/// 58 bits of MAC. The version and variant bits lie across the fields, so the 122 free bits are laid out as
/// `generation 32 | seconds 32 | mac 58`, most significant first.
pub fn make_jti(lineage_key: &[u8], generation: i32, issued_at: u32) -> [u8; 16] {
    let mac = hmac_sha256(lineage_key, &[b"jti", &generation.to_be_bytes(), &issued_at.to_be_bytes()]);
    let mac = u64::from_be_bytes(mac[..8].try_into().expect("a MAC is longer than 8 bytes"));
    let free = u128::from(generation as u32) << 90 | u128::from(issued_at) << 58 | u128::from(mac >> 6);
    let (high, middle, low) = (free >> 74, free >> 62 & 0xfff, free & ((1 << 62) - 1));
    (high << 80 | 8 << 76 | middle << 64 | 0b10 << 62 | low).to_be_bytes()
}

/// Generation and second of issue of a jti that this session made; `None` for any other.
pub fn read_jti(lineage_key: &[u8], jti: &[u8; 16]) -> Option<(i32, u32)> {
    let bits = u128::from_be_bytes(*jti);
    let free = (bits >> 80) << 74 | (bits >> 64 & 0xfff) << 62 | bits & ((1 << 62) - 1);
    let (generation, issued_at) = ((free >> 90) as u32 as i32, (free >> 58) as u32);
    equal_digests(&make_jti(lineage_key, generation, issued_at), jti).then_some((generation, issued_at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_jti_is_a_version_8_uuid_that_starts_with_its_generation() {
        let jti = make_jti(&[7; 32], 0x0102_0304, 1_800_000_000);
        assert_eq!(jti[..4], [1, 2, 3, 4]);
        assert_eq!(jti[6] >> 4, 8);
        assert_eq!(jti[8] >> 6, 0b10);
    }

    #[test]
    fn tickets_and_jtis_are_stable() {
        // Computed by other code (Python's hmac). A dump of this version must be readable by every later one.
        let ticket = 0x32c7799f1b37d4aed00cb9c39694bd08_u128;
        assert_eq!(make_ticket(&[1; 32], 5, &[2; 32]), ticket.to_be_bytes());
        let jti = 0x000000056b498d2082b39c3b8ae74236_u128;
        assert_eq!(make_jti(&[1; 32], 5, 1_800_000_000), jti.to_be_bytes());
    }

    proptest! {
        #[test]
        fn a_jti_tells_what_it_was_made_of(key: [u8; 32], generation in 0..=i32::MAX, issued_at: u32) {
            prop_assert_eq!(read_jti(&key, &make_jti(&key, generation, issued_at)), Some((generation, issued_at)));
        }

        #[test]
        fn a_jti_with_any_bit_changed_is_nobodys(key: [u8; 32], generation in 0..=i32::MAX, issued_at: u32, bit in 0..128_usize) {
            let mut jti = make_jti(&key, generation, issued_at);
            jti[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(read_jti(&key, &jti), None);
        }

        #[test]
        fn another_sessions_key_makes_another_jti_and_ticket(a: [u8; 32], b: [u8; 32], generation in 0..=i32::MAX) {
            prop_assume!(a != b);
            prop_assert_eq!(read_jti(&b, &make_jti(&a, generation, 0)), None);
            prop_assert_ne!(make_ticket(&a, generation, &[0; 32]), make_ticket(&b, generation, &[0; 32]));
        }

        #[test]
        fn a_ticket_covers_generation_and_verifier(key: [u8; 32], generation in 0..i32::MAX, verifier: [u8; 32], bit in 0..256_usize) {
            let ticket = make_ticket(&key, generation, &verifier);
            let mut other = verifier;
            other[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(ticket, make_ticket(&key, generation + 1, &verifier));
            prop_assert_ne!(ticket, make_ticket(&key, generation, &other));
        }
    }
}
