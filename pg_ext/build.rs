//! Keeps pgrx's schema section in the extension's library (cargo-pgrx would pass this to every crate, and so compile
//! every dependency twice).
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-cdylib=-Wl,--no-gc-sections");
}
