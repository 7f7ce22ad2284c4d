//! Keeps pgrx's schema section in the extension's library (cargo-pgrx would pass this to every crate, and so compile
//! every dependency twice), and composes the upgrade scripts.

#[path = "build/upgrade_scripts.rs"]
mod upgrade_scripts;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-cdylib=-Wl,--no-gc-sections");
    upgrade_scripts::write();
}
