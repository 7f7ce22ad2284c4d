//! Everything that the code can write into the audit log is documented: in `auth.audit_event_types`, with every member of
//! its details, and in sql/dba/audit-events.md, which has the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use auth_sessions_tests::TestDb;
use auth_sessions_tests::audit_log::undocumented;
use auth_sessions_tests::sql::{run, value, values};
use auth_sessions_tests::tenants::{Tenant, act_as};
use auth_sessions_tests::tokens::{PASSWORD, log_in, rotate, rotate_times, sign_up};

fn root() -> PathBuf {
    std::env::var_os("AUTH_TEST_ROOT").expect("make test sets it").into()
}

/// The arguments of the call whose parenthesis opens at `start`, as they are written.
fn arguments(text: &str, start: usize) -> Vec<String> {
    let (mut depth, mut is_text, mut found) = (0, false, vec![String::new()]);
    for character in text[start..].chars() {
        is_text ^= character == '\'';
        match character {
            '(' | '[' if !is_text => depth += 1,
            ')' | ']' if !is_text => depth -= 1,
            _ => {}
        }
        match character {
            _ if depth == 0 => break,
            '(' if !is_text && depth == 1 => {}
            ',' if !is_text && depth == 1 => found.push(String::new()),
            _ => found.last_mut().unwrap().push(character),
        }
    }
    found.iter().map(|argument| argument.trim().to_owned()).collect()
}

/// Every call of a function in a text.
fn calls(text: &str, function: &str) -> Vec<Vec<String>> {
    let name = format!("{function}(");
    text.match_indices(&name).map(|(at, name)| arguments(text, at + name.len() - 1)).collect()
}

/// The texts that an expression can come to: a literal, or the branches of a case.
fn literals(expression: &str) -> Vec<String> {
    let words: Vec<&str> = expression.split_whitespace().collect();
    let literal = |word: &str| Some(word.strip_prefix('\'')?.split('\'').next()?.to_owned());
    match words.first() {
        Some(&"case") => {
            let branches = words.windows(2).filter(|pair| matches!(pair[0], "then" | "else"));
            branches.filter_map(|pair| literal(pair[1])).collect()
        }
        Some(word) => literal(word).into_iter().collect(),
        None => Vec::new(),
    }
}

/// The members that an expression of details has.
fn members(expression: &str, functions: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for object in calls(expression, "jsonb_build_object") {
        found.extend(object.iter().step_by(2).flat_map(|member| literals(member)));
    }
    for (at, _) in expression.match_indices("'{\"") {
        let json = expression[at + 1..].split('\'').next().unwrap();
        let json: BTreeMap<String, serde_json::Value> = serde_json::from_str(json).unwrap();
        found.extend(json.into_keys());
    }
    if expression.contains("auth.seal_details(") {
        found.extend(members(&functions["seal_details"], functions));
    }
    found
}

/// What the code writes: by action, the members of its details.
async fn written(db: &TestDb) -> BTreeMap<String, BTreeSet<String>> {
    let admin = db.superuser().await;
    let rows = admin
        .query(
            "select proname::text, pg_get_functiondef(p.oid), pg_get_function_arguments(p.oid) from pg_proc p
              where pronamespace = 'auth'::regnamespace and prokind = 'f'",
            &[],
        )
        .await
        .unwrap();
    let mut bodies = BTreeMap::<String, String>::new();
    let mut defaults = BTreeMap::new();
    for row in &rows {
        let (name, body, list): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        // Without the header, which looks like a call of itself, and without comments.
        let body = ["\nAS ", "\nRETURN ", "\nBEGIN ATOMIC"].iter().find_map(|start| Some(&body[body.find(start)?..]));
        let lines = body.unwrap_or_default().lines();
        let code: String = lines.map(|line| line.split("--").next().unwrap().to_owned() + "\n").collect();
        bodies.entry(name.clone()).or_default().push_str(&code);
        if let Some((_, default)) = list.split_once("action text DEFAULT ") {
            defaults.insert(name, literals(default));
        }
    }
    let root = root();
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let mut written = BTreeMap::<String, BTreeSet<String>>::new();

    for (name, body) in bodies.iter().filter(|(name, _)| *name != "record_refusal") {
        for (function, position, more) in [("auth.record_event", 0, None), ("auth.record_refusal", 1, Some("times"))] {
            for call in calls(body, function) {
                // By action, what a caller adds to the details.
                let mut actions: Vec<(String, BTreeSet<String>)> = Vec::new();
                let callers = bodies.values().flat_map(|body| calls(body, &format!("auth.{name}")));
                let callers: Vec<_> = callers
                    .map(|call| {
                        let named = |prefix| call.iter().find_map(|argument| argument.strip_prefix(prefix));
                        let more = named("more_details => ").map(|more| match more {
                            // A variable of revoke_token: a confidential client says itself who it is.
                            "by_client" => ["client_id".to_owned()].into(),
                            more => members(more, &bodies),
                        });
                        (named("action => ").map(literals), more.unwrap_or_default())
                    })
                    .collect();
                if call[position] == "action" {
                    actions.extend(defaults.get(name).into_iter().flatten().map(|action| (action.clone(), [].into())));
                    for (given, more) in &callers {
                        let given = given.as_ref().or(defaults.get(name)).into_iter().flatten();
                        actions.extend(given.map(|action| (action.clone(), more.clone())));
                    }
                } else {
                    let more: BTreeSet<String> = callers.iter().flat_map(|(_, more)| more.clone()).collect();
                    actions.extend(literals(&call[position]).into_iter().map(|action| (action, more.clone())));
                }
                assert!(!actions.is_empty(), "what does {name} write? {}", call[position]);
                for (action, added) in actions {
                    let keys = written.entry(action).or_default();
                    keys.extend(call.iter().skip(position + 1).flat_map(|argument| members(argument, &bodies)));
                    keys.extend(more.map(str::to_owned));
                    keys.extend(added);
                }
            }
        }
    }
    // In C, in one statement with the refresh; and the take-over, in a schema of its own.
    let refreshed = read("pg_ext/src/rotation.rs");
    assert_eq!(refreshed.matches("insert into auth.audit_log").count(), 1);
    assert!(refreshed.contains("select 'token_refreshed', 'info', true"));
    written.entry("token_refreshed".into()).or_default();
    let adoption = read("sql/adopt/verify.sql");
    let call = &calls(&adoption, "auth.record_event")[0];
    let keys: BTreeSet<String> = call.iter().flat_map(|argument| members(argument, &bodies)).collect();
    for file in ["api/src/adoption/mod.rs", "api/src/adoption/rollback.rs"] {
        for (_, rest) in read(file).match_indices(".record(\"").map(|(at, _)| (at, read(file)[at + 9..].to_owned())) {
            written.insert(rest.split('"').next().unwrap().to_owned(), keys.clone());
        }
    }
    written
}

#[tokio::test]
async fn every_action_that_the_code_can_write_is_documented_with_every_member() {
    let db = TestDb::create().await;
    let documented: BTreeMap<String, BTreeSet<String>> = db
        .superuser()
        .await
        .query("select action, array(select jsonb_object_keys(details)) from auth.audit_event_types", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get::<_, Vec<String>>(1).into_iter().collect()))
        .collect();
    let written = written(&db).await;
    assert!(written.len() > 55, "{}", written.len());
    let differences: Vec<String> = written
        .keys()
        .chain(documented.keys())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter(|action| written.get(*action) != documented.get(*action))
        .map(|action| format!("{action}: written {:?}, documented {:?}", written.get(action), documented.get(action)))
        .collect();
    assert_eq!(differences, Vec::<String>::new(), "add it to sql/event_types.sql");
}

#[tokio::test]
async fn what_is_documented_holds_together() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    for (rule, query) in [
        ("an action is there twice", "select action from auth.audit_event_types group by action having count(*) > 1"),
        (
            "a type that nobody knows",
            "select action || ' ' || d.value from auth.audit_event_types, jsonb_each_text(details) d
              where rtrim(d.value, '?') not in ('text', 'int', 'boolean', 'uuid', 'timestamptz', 'interval', 'object', 'text[]', 'uuid[]')",
        ),
        (
            "the summary names a member that is none",
            "select action || ' ' || m[1] from auth.audit_event_types, regexp_matches(summary, '\\{([a-z_]+)\\}', 'g') m
              where not details ? m[1]",
        ),
        (
            "the summary needs a member that may be missing",
            "select action || ' ' || m[1] from auth.audit_event_types,
                    regexp_matches(regexp_replace(summary, '\\[[^]]*\\]', '', 'g'), '\\{([a-z_]+)\\}', 'g') m
              where details ->> m[1] like '%?'",
        ),
        ("a meaning is no sentence", "select action from auth.audit_event_types where meaning !~ '^[A-Z].*\\.$'"),
    ] {
        assert_eq!(values::<String>(&admin, query, &[]).await, Vec::<String>::new(), "{rule}");
    }
}

/// The page for whoever reads an export: the table is the view, line by line.
#[tokio::test]
async fn the_page_has_what_the_view_has() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    let lines: Vec<String> = values(
        &admin,
        "select format('| `%s` | %s | %s | %s |', action, version, meaning,
                       coalesce((select string_agg(format('`%s` %s', d.key, d.value), ', ' order by d.key) from jsonb_each_text(t.details) d), ''))
           from auth.audit_event_types t order by action collate \"C\"",
        &[],
    )
    .await;
    let page = std::fs::read_to_string(root().join("sql/dba/audit-events.md")).unwrap();
    let (_, table) = page.split_once("\n## What happened").expect("the heading of the table");
    let table: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
    let newest = std::env::temp_dir().join(format!("audit-events-{}.md", std::process::id()));
    if table != lines {
        std::fs::write(&newest, lines.join("\n")).unwrap();
    }
    assert_eq!(table, lines, "the table as it should be is in {}", newest.display());
}

/// What is really written is of the types that are documented.
#[tokio::test]
async fn what_is_written_is_of_the_documented_types() {
    let db = TestDb::create().await;
    db.set("auth_sessions.audit_level", "all").await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let operator = db.connect_as("auth_operator").await;
    let tenant = Tenant::found(&admin, &service, "ours").await;
    let tokens = rotate_times(&service, sign_up(&service, "ada@example.org").await, 3).await;
    assert_eq!(rotate(&service, &tokens[2]).await.outcome, "retried");
    assert_eq!(rotate(&service, &tokens[0]).await.outcome, "replayed");
    for _ in 0..11 {
        log_in(&service, "ada@example.org", "wrong").await;
    }
    run(&operator, "select auth.unlock_account('ada@example.org')", &[]).await;
    for statement in [
        "select auth.create_personal_access_token('report', '{sessions:read}', sha256('lookup'), sha256('verifier'), '1 day')",
        "select auth.switch_organization(null)",
    ] {
        // Whether it worked does not matter here, only what it wrote.
        let _ = act_as(&service, &tenant.member, statement, &[]).await;
    }
    let ada = log_in(&service, "ada@example.org", PASSWORD).await;
    let _ = act_as(&service, &ada, "select auth.complete_step_up(1, sha256('wrong'))", &[]).await;
    for statement in [
        "select auth.open_recovery_window('1 hour', 3)",
        "select auth.register_client('client_billing', sha256('secret'))",
        "select auth.run_maintenance()",
        "select auth.revoke_session_family(id) from auth.sessions",
    ] {
        operator.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    admin
        .batch_execute("update auth.users set disabled_at = now(); update auth.users set disabled_at = null")
        .await
        .unwrap();
    admin.batch_execute("delete from auth.organizations; delete from auth.users").await.unwrap();
    let actions: i64 = value(&admin, "select count(distinct action) from auth.audit_log", &[]).await;
    assert!(actions >= 20, "{actions}");
    assert_eq!(undocumented(&admin).await, Vec::<String>::new());

    // And what is not as documented is found.
    for (details, found) in [
        ("'{}'", "method is missing"),
        ("'{\"method\": 1}'", "method is no text"),
        ("'{\"method\": \"x\", \"more\": 1}'", "more is not documented"),
    ] {
        admin.batch_execute("begin").await.unwrap();
        run(&admin, &format!("select auth.record_event('user_logged_in', 'info', true, details => {details})"), &[])
            .await;
        let problems = undocumented(&admin).await;
        admin.batch_execute("rollback").await.unwrap();
        assert!(problems.len() == 1 && problems[0].contains(found), "{problems:?}");
    }
}
