//! Collects the statements of `src/db/`, so that the service can ask a database of another version whether it understands
//! them all: `src/db/compatibility.rs`.

use std::{env, fs, io, path::Path};

/// Commands' own: no request sends them.
const OF_COMMANDS: [&str; 2] = ["adoption.rs", "installation.rs"];
/// How a statement begins.
const VERBS: [&str; 5] = ["select ", "with ", "insert ", "update ", "delete "];

fn main() -> io::Result<()> {
    let directory = Path::new("src/db");
    println!("cargo::rerun-if-changed={}", directory.display());
    let mut files: Vec<_> = fs::read_dir(directory)?.collect::<Result<_, _>>()?;
    files.sort_by_key(|file| file.file_name());
    let mut statements = Vec::new();
    for file in files {
        if !OF_COMMANDS.iter().any(|of_commands| file.file_name() == *of_commands) && file.file_type()?.is_file() {
            statements
                .extend(literals(&fs::read_to_string(file.path())?).into_iter().filter(|text| is_statement(text)));
        }
    }
    let list = statements.iter().map(|text| format!("    {text},\n")).collect::<String>();
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    fs::write(Path::new(&out).join("statements.rs"), format!("&[\n{list}]\n"))
}

fn is_statement(literal: &str) -> bool {
    VERBS.iter().any(|verb| literal.strip_prefix('"').is_some_and(|text| text.starts_with(verb)))
        && literal.contains("auth.")
}

/// The string literals of a Rust file as they stand there, up to its tests; without those that are composed (`concat!`).
fn literals(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(start) = rest.find(['"', '\'', '/']) {
        rest = &rest[start..];
        let length = match rest.as_bytes() {
            [b'/', b'/', ..] => rest.find('\n').unwrap_or(rest.len()),
            [b'\'', b'"', b'\'', ..] => 3,
            [b'"', ..] => {
                let length = literal_length(rest);
                let before = &source[..source.len() - rest.len()];
                if !before.trim_end().ends_with("concat!(") {
                    found.push(rest[..length].to_owned());
                }
                length
            }
            _ => 1,
        };
        rest = &rest[length..];
    }
    found
}

/// From the quote to the one that ends it.
fn literal_length(text: &str) -> usize {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|(_, letter)| {
        let ends = *letter == '"' && !escaped;
        escaped = *letter == '\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}
