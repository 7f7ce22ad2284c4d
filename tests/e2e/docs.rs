//! The pages for people: every link leads somewhere, the index has every page, and the statements of the runbooks run.

use std::path::{Path, PathBuf};

use auth_sessions_tests::TestDb;
use auth_sessions_tests::tokens::sign_up;

fn root() -> PathBuf {
    std::env::var_os("AUTH_TEST_ROOT").expect("make test sets it").into()
}

/// Every page in a directory, and below it.
fn pages(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "node_modules" && name != "target" {
            found.extend(pages(&path));
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
    found
}

fn read(page: &Path) -> String {
    std::fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()))
}

/// Where the links of a page lead: file and heading.
fn links(page: &str) -> Vec<(&str, &str)> {
    // What looks like a link in a block of code is none.
    let mut is_code = false;
    let mut found = Vec::new();
    for line in page.lines() {
        is_code ^= line.trim_start().starts_with("```");
        if is_code {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            let target = line[at + 2..].split([')', ' ']).next().unwrap();
            if !target.contains("://") && !target.starts_with("mailto:") {
                found.push(target.split_once('#').unwrap_or((target, "")));
            }
        }
    }
    found
}

/// The headings and anchors of a page, as links name them.
fn headings(page: &str) -> Vec<String> {
    let headings = page.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let word = |letter: char| match letter {
        ' ' => Some('-'),
        letter if letter.is_alphanumeric() || letter == '-' || letter == '_' => Some(letter.to_ascii_lowercase()),
        _ => None,
    };
    let anchors = page.split("<a id=\"").skip(1).filter_map(|rest| rest.split('"').next());
    headings.map(|heading| heading.chars().filter_map(word).collect()).chain(anchors.map(str::to_owned)).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    let mut followed = 0;
    for page in
        ["api", "sql", "tests"].into_iter().flat_map(|part| pages(&root().join(part))).chain([root().join("README.md")])
    {
        let text = read(&page);
        for (file, heading) in links(&text) {
            followed += 1;
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            if !target.exists() {
                broken.push(format!("{}: {file}", page.display()));
            } else if !heading.is_empty()
                && file.ends_with(".md") | file.is_empty()
                && !headings(&read(&target)).contains(&heading.to_owned())
            {
                broken.push(format!("{}: {file}#{heading}", page.display()));
            }
        }
    }
    assert!(followed > 60, "{followed}");
    assert_eq!(broken, Vec::<String>::new());
}

#[test]
fn the_index_has_every_page() {
    let index = read(&root().join("sql/dba/README.md"));
    for page in pages(&root().join("sql/dba")) {
        let name = page.file_name().unwrap().to_string_lossy().into_owned();
        assert!(name == "README.md" || index.contains(&format!("]({name})")), "{name} is not in sql/dba/README.md");
    }
    assert!(read(&root().join("README.md")).contains("sql/dba/"), "and the way there");
}

/// Who is asked to run a statement of a page, and the statement.
struct Statement {
    login: &'static str,
    sql: String,
}

/// What a page tells to type: after a prompt of psql, up to the semicolon; or behind `psql … -c`.
fn statements(page: &str) -> Vec<Statement> {
    let mut found = Vec::new();
    let mut lines = page.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let prompt = [("auth=> ", "auth_operator"), ("auth=# ", "postgres"), ("$ psql ", "auth_operator")];
        let Some((typed, login)) = prompt.iter().find_map(|(prompt, login)| Some((line.strip_prefix(prompt)?, *login)))
        else {
            continue;
        };
        let (mut sql, end) = match typed.split_once("-c \"") {
            Some((_, sql)) => (sql.to_owned(), '"'),
            None if line.starts_with('$') => continue,
            None => (typed.to_owned(), ';'),
        };
        while !sql.trim_end().ends_with(end) {
            sql.push('\n');
            sql.push_str(lines.next().unwrap_or_else(|| panic!("where does it end? {typed}")));
        }
        found.push(Statement { login, sql: sql.trim_end_matches(['"', ';', '\n']).to_owned() });
    }
    found
}

#[tokio::test]
async fn the_statements_of_the_runbooks_run() {
    let db = TestDb::create().await;
    // Of whom they tell.
    sign_up(&db.connect_as("auth_service").await, "ada@example.org").await;
    let mut tried = 0;
    for page in ["replay-incident.md", "growth.md", "failover.md", "tune.md", "monitor.md"] {
        for Statement { login, sql } in statements(&read(&root().join("sql/dba").join(page))) {
            // Only of a standby, of a whole server.
            if ["pg_promote", "alter system", "alter extension"].iter().any(|words| sql.contains(words)) {
                continue;
            }
            tried += 1;
            let client = db.connect_as(login).await;
            client.batch_execute("begin").await.unwrap();
            let result = client.simple_query(&sql).await;
            assert!(result.is_ok(), "{page}: {sql}: {:?}", result.err());
            client.batch_execute("rollback").await.unwrap();
        }
    }
    assert!(tried >= 12, "{tried}");
}

/// Who is woken by an alert finds what to do.
#[test]
fn every_alert_rule_has_its_line() {
    let page = read(&root().join("sql/dba/monitor.md"));
    let table: Vec<&str> = page.lines().filter(|line| line.starts_with("| `Auth")).collect();
    let cells = table.iter().map(|line| line.split(" | ").next().unwrap());
    let named: Vec<String> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect();
    // `…Many`, after the name that it begins like.
    let is_named =
        |rule: &str| named.iter().any(|name| name.strip_prefix('…').map_or(name == rule, |end| rule.ends_with(end)));
    let rules = crate::monitoring::alert_expressions();
    let missing: Vec<&String> = rules.iter().map(|(rule, _)| rule).filter(|rule| !is_named(rule)).collect();
    assert!(missing.is_empty(), "not in sql/dba/monitor.md: {missing:?}");
    for name in named.iter().filter(|name| !name.starts_with('…')) {
        assert!(rules.iter().any(|(rule, _)| rule == name), "{name} is no rule");
    }
}

/// The files that pages tell to run are there.
#[test]
fn the_queries_that_are_named_are_there() {
    for page in pages(&root().join("sql/dba")) {
        for (at, _) in read(&page).match_indices("-f sql/") {
            let text = read(&page);
            let file = text[at + 3..].split([' ', '\n', '`']).next().unwrap();
            assert!(root().join(file).exists(), "{}: {file}", page.display());
        }
    }
}
