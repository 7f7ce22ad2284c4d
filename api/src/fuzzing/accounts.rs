//! What an operator takes over from another system: the mapping file, and password hashes.

use serde_json::Value;

use crate::{
    adoption::mapping::Mapping,
    password::{ForeignHash, scheme::Scheme},
};

/// The input is a mapping file.
pub fn mapping_files(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(mapping) = Mapping::parse(text) else { return };
    let json = mapping.to_json();
    let sections = json.as_object().expect("an object");
    assert!(
        sections.contains_key("sessions") && sections.keys().all(|name| ["users", "sessions"].contains(&name.as_str()))
    );
    for section in sections.values() {
        let columns = section["columns"].as_object().expect("columns");
        // The database takes each for a name.
        assert!(columns.values().all(Value::is_string), "{columns:?}");
        assert!(section["table"].is_string() && section["time_zone"].is_string());
    }
    assert!(!mapping.has_passwords() || sections["users"]["columns"]["password_hash"].is_string());
}

/// The input is a hash as another system kept it; and it is the text of a scheme, as our own table keeps it.
pub fn password_hashes(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match ForeignHash::parse(text) {
        Ok(hash) => {
            assert!((16..=64).contains(&hash.salt.len()) && (16..=128).contains(&hash.output.len()));
            check(hash.scheme);
        }
        // Whatever was wrong with it: what is told does not help a cracker.
        Err(why) => {
            let secret = text.trim().rsplit('$').next().unwrap_or_default();
            let is_encoded =
                secret.len() >= 16 && secret.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/.".contains(&b));
            assert!(!is_encoded || !why.contains(secret), "{why}");
        }
    }
    if let Ok(scheme) = text.parse::<Scheme>() {
        check(scheme);
    }
}

/// What the table keeps is read as what was meant, and costs no more than a process can afford.
fn check(scheme: Scheme) {
    assert_eq!(scheme.to_string().parse::<Scheme>().as_ref(), Ok(&scheme));
    match scheme {
        Scheme::Argon2 { params, .. } => {
            assert!(params.memory_kib <= 1024 * 1024 && params.parallelism <= 16);
            assert!(u64::from(params.memory_kib) * u64::from(params.iterations) <= 8 * 1024 * 1024);
        }
        Scheme::Bcrypt { cost } => assert!(cost <= 16),
    }
}
