//! Composes `auth_sessions--<released>--<this>.sql`, one for each released version: first the steps written by hand
//! (`sql/upgrades/A--B/tables.sql`, every step from that version to this one), then all of `sql/` again in its order,
//! with each function, view, trigger and policy replaced. So a function is written once, and no upgrade forgets it.
//!
//! They are written to `pg_ext/sql`, from where cargo-pgrx installs and packages them; git ignores that directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

/// Writes the scripts; panics, and so fails the build, with what is wrong in `sql/`.
pub fn write() {
    for changed in ["build", "src/schema.rs", "../sql"] {
        println!("cargo::rerun-if-changed={changed}");
    }
    // Asked when it runs: a copy of the tree may have been built with this program already.
    let cargo = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let (package, this) = (cargo("CARGO_MANIFEST_DIR"), cargo("CARGO_PKG_VERSION"));
    let (package, this) = (Path::new(&package), &*this);
    let sql = package.join("../sql");

    let steps = steps(&sql.join("upgrades"));
    let everything = everything_again(&sql, &read(&package.join("src/schema.rs")));
    let after = read(&sql.join("upgrades/after.sql"));
    let scripts: BTreeMap<String, String> = steps
        .keys()
        .map(|released| {
            let by_hand = steps_between(&steps, released, this);
            let guard = format!(
                "\\echo Use \"alter extension auth_sessions update to '{this}'\" to load this file. \\quit\n\n"
            );
            (format!("auth_sessions--{released}--{this}.sql"), guard + &by_hand + &everything + &after)
        })
        .collect();

    let directory = package.join("sql");
    fs::create_dir_all(&directory).expect("pg_ext/sql");
    for entry in fs::read_dir(&directory).expect("pg_ext/sql") {
        let entry = entry.expect("pg_ext/sql");
        if !scripts.contains_key(&*entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path()).expect("a script of another version");
        }
    }
    for (name, script) in scripts {
        // When it is missing, it is written again; but what was written is no reason to write again.
        println!("cargo::rerun-if-changed=sql/{name}");
        let file = directory.join(name);
        // Not touched when nothing changed: the tree may be read-only.
        if fs::read_to_string(&file).ok().as_ref() != Some(&script) {
            fs::write(&file, script)
                .and_then(|()| fs::File::options().append(true).open(&file)?.set_modified(SystemTime::UNIX_EPOCH))
                .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
    }
}

/// What was written by hand, by the version it starts from: the version it leads to, and the statements.
fn steps(upgrades: &Path) -> BTreeMap<String, (String, String)> {
    let mut steps = BTreeMap::new();
    for entry in fs::read_dir(upgrades).expect("sql/upgrades") {
        let directory = entry.expect("sql/upgrades").path();
        let name = directory.file_name().expect("a name").to_string_lossy().into_owned();
        if let Some((from, to)) = name.split_once("--") {
            steps.insert(from.to_owned(), (to.to_owned(), read(&directory.join("tables.sql"))));
        }
    }
    steps
}

fn steps_between(steps: &BTreeMap<String, (String, String)>, released: &str, this: &str) -> String {
    let mut statements = String::new();
    let mut version = released;
    while version != this {
        let Some((next, tables)) = steps.get(version) else {
            panic!(
                "sql/upgrades leads from {released} to {version}, but not to {this}: make {version}--{this}/tables.sql"
            )
        };
        statements += tables;
        version = next;
    }
    statements
}

/// All of `sql/` in the order of `schema.rs`, so that it can be run where an older version of it has been run.
fn everything_again(sql: &Path, schema: &str) -> String {
    let files = schema.lines().filter_map(|line| line.split_once("\"../../sql/")?.1.split('"').next());
    files.flat_map(|file| statements(&read(&sql.join(file)), file)).map(|statement| statement.again()).collect()
}

/// A statement with the comments above it.
#[derive(Default)]
struct Statement {
    comments: String,
    code: String,
    place: String,
}

/// The statements of a file. In this project's style each starts at the margin, and its other lines do not start with a
/// letter there, but for what is between dollar quotes.
fn statements(text: &str, file: &str) -> Vec<Statement> {
    let mut statements = Vec::new();
    let mut current = Statement::default();
    let (mut quoted, mut complete) = (false, false);
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('\\')) {
        let at_margin = !quoted && line.starts_with(|c: char| !c.is_whitespace());
        if at_margin && complete {
            statements.push(std::mem::take(&mut current));
        }
        if at_margin && line.starts_with(|c: char| c.is_ascii_alphabetic()) {
            current.place = format!("sql/{file}:{}", number + 1);
            assert!(current.code.is_empty(), "{}: the statement above has no end", current.place);
        }
        let part = if current.place.is_empty() { &mut current.comments } else { &mut current.code };
        *part += line;
        part.push('\n');
        quoted ^= line.matches("$$").count() % 2 == 1;
        complete = !quoted && current.code.trim_end().ends_with(';');
    }
    assert!(complete || current.code.is_empty(), "{}: this statement has no end", current.place);
    statements.push(current);
    statements
}

impl Statement {
    /// The same so that it can be run again; nothing for what only an installation makes.
    fn again(&self) -> String {
        let Self { comments, code, place } = self;
        let words: Vec<&str> = code.split_whitespace().collect();
        // `create policy NAME on TABLE …`, `create constraint trigger NAME … on TABLE …`
        let dropped_first = |kind: &str, name: &str| {
            let table = words.iter().skip_while(|word| **word != "on").nth(1);
            let table = table.unwrap_or_else(|| panic!("{place}: on which table?"));
            format!("{comments}drop {kind} if exists {name} on {table};\n{code}")
        };
        match words[..] {
            // What holds data comes by the steps written by hand.
            [] | ["create", "table" | "unlogged" | "index" | "unique" | "sequence" | "type", ..] => String::new(),
            ["create", "function" | "procedure" | "view" | "trigger", ..] => {
                format!("{comments}{}", code.replacen("create ", "create or replace ", 1))
            }
            ["create", "policy", name, ..] => dropped_first("policy", name),
            ["create", "constraint", "trigger", name, ..] => dropped_first("trigger", name),
            ["comment" | "grant" | "revoke" | "do" | "select", ..] => format!("{comments}{code}"),
            _ => panic!(
                "{place}: an upgrade runs all of sql/ again: say in pg_ext/build/upgrade_scripts.rs how this is done again"
            ),
        }
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
