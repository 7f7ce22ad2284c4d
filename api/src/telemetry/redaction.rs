//! The last line: what looks like a secret or an address is blacked out in the few texts that leave.

/// Prefixes of our tokens, JWTs and webhook secrets.
const MARKS: [&str; 6] = ["asr_", "asp_", "aso_", "asc_", "whsec_", "eyJ"];
const BLACK: &str = "[redacted]";
/// No word of ours is as long and has digits in it; keys and digests are longer.
const LONG: usize = 20;

/// The text without what may be a secret: tokens, long runs of letters and digits, e-mail addresses, URLs with a password.
pub fn redacted(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_-+/=.%@:~".contains(c) || !c.is_ascii();
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_part) {
        let (before, word) = rest.split_at(start);
        let (word, after) = word.split_at(word.find(|c| !is_part(c)).unwrap_or(word.len()));
        result.push_str(before);
        result.push_str(if is_secret(word) { BLACK } else { word });
        rest = after;
    }
    result + rest
}

fn is_secret(word: &str) -> bool {
    let is_run = |run: &str| run.len() >= LONG && run.bytes().any(|b| b.is_ascii_digit());
    word.contains('@')
        || MARKS.iter().any(|mark| word.contains(mark))
        || word.split(['.', ':', '/', '=', '%']).any(is_run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_blacked_out_wherever_they_stand() {
        for secret in [
            "asr_a6Tx4FLM",
            "Bearer eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIxIn0.c2ln",
            "(asp_a6Tx4FLMoUeRDA-9LRIaZ_FKo6)",
            "https://app.example.org/reset#token=aso_short",
            "postgres://auth_service:hunter2@db/auth",
            "ada@example.org",
            "000102030405060708090a0b0c0d0e0f",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "path/AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        ] {
            let text = redacted(&format!("it said \"{secret}\", twice: {secret}."));
            assert!(text.contains(BLACK) && !text.contains(secret), "{text}");
            for part in ["a6Tx4FLM", "c2ln", "hunter2", "ada@", "0a0b0c", "BgcICQ", "aso_"] {
                assert!(!text.contains(part), "{text}");
            }
        }
    }

    #[test]
    fn what_the_log_says_stays_readable() {
        for text in [
            "",
            "not ready: the extension is version 0.1.0, the service 0.2.0 (alter extension auth_sessions update)",
            "panicked at api/src/routes/personal_access_tokens.rs:123:45",
            "a prepared statement is not where it was prepared: set DB_PREPARED_STATEMENTS=off",
            "cannot listen on 127.0.0.1:8080",
        ] {
            assert_eq!(redacted(text), text);
        }
    }
}
