//! Passwords that everybody tries first (NIST SP 800-63B §3.1.1.2 wants them refused).
//!
//! `data/common_passwords.txt` is the list of Django 5.2.19 (`django/contrib/auth/common-passwords.txt.gz`, BSD-3-Clause;
//! made by Royce Williams from leaked passwords, <https://gist.github.com/roycewilliams/226886fd01572964e1431ac8afc999ce>),
//! lower case, without those that are too short to be set here anyway, sorted.

use std::{collections::HashSet, sync::LazyLock};

static LIST: LazyLock<HashSet<&str>> = LazyLock::new(|| include_str!("../data/common_passwords.txt").lines().collect());

/// Whether a password is one of them, however its letters are written.
pub fn is_common(password: &str) -> bool {
    LIST.contains(password.to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_there_and_case_does_not_help() {
        assert!(LIST.len() > 8000);
        for common in ["password", "12345678", "Password1", "IloveYou", "QWERTYUIOP"] {
            assert!(is_common(common), "{common}");
        }
        for other in ["correct horse battery staple", "", "password with more", " password"] {
            assert!(!is_common(other), "{other}");
        }
    }
}
