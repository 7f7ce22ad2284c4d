//! Stops inside the extension's own functions: the text of a PL/pgSQL function with a call of `model.stop` before each
//! statement that touches certain tables. Nothing else of the function changes.

use tokio_postgres::Client;

use crate::sql::run;

/// A function's body that is broken on purpose before the stops are put in: the function, what stands there, and what
/// is put in its place. For proving that a schedule would find it.
pub type Break = (&'static str, &'static str, &'static str);

/// What a stop is. An actor waits for an advisory lock that the explorer holds; each stop of a run has a number of its
/// own. The counters are unlogged sequences, so that stopping gives a transaction no id and no rollback takes it back.
const STOP: &str = "
  create schema model;
  grant usage on schema model to public;
  create unlogged sequence model.stops_of_1;
  create unlogged sequence model.stops_of_2;
  create unlogged sequence model.stops_of_3;
  create function model.stop(place text) returns void language plpgsql volatile security definer as $$
  declare
    actor text := current_setting('model.actor', true);
    number int;
  begin
    if coalesce(actor, '') = '' then
      return;
    end if;
    number := nextval('model.stops_of_' || actor);
    perform set_config('application_name', place, false);
    perform pg_advisory_lock(actor::int, number);
    perform pg_advisory_unlock(actor::int, number);
  end
  $$;";

/// Puts the stops into a database: before each statement of a volatile function of schema `auth` that names one of
/// these tables. Returns how many there are.
pub async fn put_in(admin: &Client, tables: &[&str], breaks: &[Break]) -> usize {
    admin.batch_execute(STOP).await.expect("schema model");
    let functions = "select p.proname::text, pg_get_functiondef(p.oid), p.prosrc
                       from pg_proc p join pg_language l on l.oid = p.prolang
                      where p.pronamespace = 'auth'::regnamespace and l.lanname = 'plpgsql' and p.provolatile = 'v'
                        -- Asks only under REPEATABLE READ, where nobody is here.
                        and p.proname <> 'require_newest_view'";
    let (mut stops, mut broken) = (0, 0);
    for row in admin.query(functions, &[]).await.expect("functions") {
        let (name, definition, body): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let mut changed = body.clone();
        for (function, from, to) in breaks {
            if *function == name && changed.contains(from) {
                changed = changed.replace(from, to);
                broken += 1;
            }
        }
        let (changed, count) = with_stops(&name, &changed, tables);
        if changed != body {
            stops += count;
            run(admin, &definition.replace(&body, &changed), &[]).await;
        }
    }
    assert_eq!(broken, breaks.len(), "each break must be found in its function: {breaks:?}");
    stops
}

/// The body with its stops, and how many they are.
pub fn with_stops(function: &str, body: &str, tables: &[&str]) -> (String, usize) {
    let touches = |statement: &str| {
        tables.iter().any(|table| {
            statement.match_indices(&format!("auth.{table}")).any(|(at, name)| {
                !statement[at + name.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '(')
            })
        })
    };
    let mut stopped = String::new();
    let (mut copied, mut count) = (0, 0);
    for statement in statements(body) {
        if touches(&body[statement.clone()]) {
            count += 1;
            stopped += &body[copied..statement.start];
            stopped += &format!("perform model.stop('{function} {count}'); ");
            copied = statement.start;
        }
    }
    stopped += &body[copied..];
    (stopped, count)
}

/// Where the statements of a PL/pgSQL body are that another one may be put before: an `if`, a `for` or a `case` up to
/// its `then` or `loop`, everything else up to its semicolon.
fn statements(body: &str) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let mut start = None;
    // Parentheses, and `case` expressions, whose `then`, `else` and `end` are no statement's.
    let (mut depth, mut cases, mut declares) = (0, 0, false);
    let mut rest = 0;
    while let Some(token) = next_token(body, rest) {
        rest = token.end;
        let word = body[token.clone()].to_ascii_lowercase();
        match word.as_str() {
            "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            // But not that of `end case`.
            "case" if start.is_some_and(|start| !body[start..token.start].trim_end().eq_ignore_ascii_case("end")) => {
                cases += 1;
            }
            "end" if cases > 0 => cases -= 1,
            ";" | "then" | "loop" | "else" if depth == 0 && cases == 0 => {
                if let Some(start) = start.take()
                    && !declares
                {
                    found.push(start..token.start);
                }
            }
            "declare" if start.is_none() => declares = true,
            "begin" if start.is_none() => declares = false,
            _ if start.is_none() => start = Some(token.start),
            _ => {}
        }
    }
    let begins_no_statement = |statement: &std::ops::Range<usize>| {
        let first = next_token(body, statement.start).map(|token| body[token].to_ascii_lowercase());
        !["end", "elsif", "when", "exception"].contains(&first.unwrap_or_default().as_str())
    };
    found.retain(begins_no_statement);
    found
}

/// The next word, number, quoted text or sign, comments and white space left out.
fn next_token(body: &str, from: usize) -> Option<std::ops::Range<usize>> {
    let mut at = from;
    loop {
        let rest = &body[at..];
        let first = rest.chars().next()?;
        if first.is_whitespace() {
            at += first.len_utf8();
        } else if rest.starts_with("--") || rest.starts_with("#variable_conflict") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            at += rest.find("*/").map_or(rest.len(), |end| end + 2);
        } else {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let length = match first {
                // A doubled quote is two texts in a row, which is all the same here.
                '\'' | '"' => rest[1..].find(first).map_or(rest.len(), |end| end + 2),
                _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                _ => first.len_utf8(),
            };
            return Some(at..at + length);
        }
    }
}
