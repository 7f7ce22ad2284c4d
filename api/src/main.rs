//! The program `auth-api`: `lib.rs` says what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    auth_api::main()
}
