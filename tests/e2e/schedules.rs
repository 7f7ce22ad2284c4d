//! Races, model checked: every order of the lock points of a few transactions (see `tests/src/schedules`), and the
//! invariants of the design after each. `AUTH_SCHEDULES=all` lifts the bound on preemptions (`.make/schedules`, which
//! `make fuzz` runs at its end).

use auth_sessions_tests::schedules::races::{
    CHANGE_PASSWORD, CLEAN, DBA, DISABLE, OPERATOR, PROLONG, RACE, REVOKE, Race, SERVICE, log_out, login, present,
    statement,
};
use auth_sessions_tests::schedules::stops::{Break, with_stops};
use auth_sessions_tests::tokens::PASSWORD;

#[tokio::test]
async fn rotate_and_rotate() {
    let two = Race {
        actors: &[("laptop", SERVICE), ("other tab", SERVICE)],
        works: |scene| vec![present(scene, 2), present(scene, 2)],
        outcomes: &[&["rotated", "retried"], &["retried", "rotated"]],
        bound: None,
        ..RACE
    };
    two.holds().await;
    let three = Race {
        actors: &[("laptop", SERVICE), ("other tab", SERVICE), ("third tab", SERVICE)],
        works: |scene| vec![present(scene, 2), present(scene, 2), present(scene, 2)],
        outcomes: &[
            &["rotated", "retried", "retried"],
            &["retried", "rotated", "retried"],
            &["retried", "retried", "rotated"],
        ],
        ..RACE
    };
    three.holds().await;
}

#[tokio::test]
async fn rotate_and_the_token_before() {
    // Two tabs, of which one is behind: it is answered until the other one's successor exists, and is a replay after.
    let race = Race {
        actors: &[("laptop", SERVICE), ("slow tab", SERVICE)],
        works: |scene| vec![present(scene, 2), present(scene, 1)],
        outcomes: &[&["rotated", "retried"], &["rotated", "overtaken"], &["rotated", "replayed"]],
        ..RACE
    };
    race.holds().await;
}

#[tokio::test]
async fn rotate_and_replay() {
    let race = Race {
        actors: &[("laptop", SERVICE), ("thief", SERVICE)],
        works: |scene| vec![present(scene, 2), present(scene, 0)],
        outcomes: &[&["rotated", "replayed"], &["rotated", "overtaken"], &["revoked", "replayed"]],
        ..RACE
    };
    race.holds().await;
    Race { settings: &[("auth_sessions.replay_scope", "user")], ..race }.holds().await;
}

#[tokio::test]
async fn rotate_and_revoke() {
    let race = Race {
        actors: &[("laptop", SERVICE), ("operator", OPERATOR)],
        works: |scene| vec![present(scene, 2), statement(scene, REVOKE)],
        outcomes: &[&["rotated", "1"], &["revoked", "1"]],
        ..RACE
    };
    race.holds().await;
    let three = Race {
        actors: &[("laptop", SERVICE), ("other tab", SERVICE), ("operator", OPERATOR)],
        works: |scene| vec![present(scene, 2), present(scene, 2), statement(scene, REVOKE)],
        outcomes: &[
            &["rotated", "retried", "1"],
            &["retried", "rotated", "1"],
            &["rotated", "revoked", "1"],
            &["revoked", "rotated", "1"],
            &["revoked", "revoked", "1"],
        ],
        ..race
    };
    three.holds().await;
}

#[tokio::test]
async fn rotate_and_log_out() {
    // Two tabs: the one logs out with the token that the other one is about to exchange.
    let race = Race {
        actors: &[("laptop", SERVICE), ("other tab", SERVICE)],
        works: |scene| vec![present(scene, 2), log_out(scene, 2)],
        outcomes: &[&["rotated", "true"], &["revoked", "true"]],
        ..RACE
    };
    race.holds().await;
}

#[tokio::test]
async fn replay_and_revoke() {
    let race = Race {
        actors: &[("thief", SERVICE), ("operator", OPERATOR)],
        works: |scene| vec![present(scene, 0), statement(scene, REVOKE)],
        outcomes: &[&["replayed", "0"], &["revoked", "1"]],
        ..RACE
    };
    race.holds().await;
    // What the locks are for.
    let decides_without_lock: Break = (
        "settle_rotation",
        "where x.id = settle_rotation.session_id for no key update",
        "where x.id = settle_rotation.session_id",
    );
    race.finds(&[decides_without_lock]).await;
    let revokes_without_lock: Break = ("revoke_live_sessions", "order by s.id for no key update", "order by s.id");
    race.finds(&[revokes_without_lock]).await;
}

#[tokio::test]
async fn rotate_and_clean() {
    // Over for longer than it is kept.
    let race = Race {
        actors: &[("laptop", SERVICE), ("cleaner", OPERATOR)],
        works: |scene| vec![present(scene, 2), statement(scene, CLEAN)],
        arrange: ", left_by_others as (delete from auth.sessions where id <> $1 and expires_at < now())
                  update auth.sessions set expires_at = now() - interval '2 days' where id = $1",
        // A row in use is skipped, and cleaned the next time.
        outcomes: &[&["expired", "0"], &["expired", "1"], &["unknown", "1"]],
        ..RACE
    };
    race.holds().await;
    Race { arrange: "", outcomes: &[&["rotated", "0"]], ..race }.holds().await;
    // A session that comes back to life, as one does that is refreshed in its last moment: a cleaner that goes by what
    // it saw before would take it. No clock can be told to strike between two steps, so a DBA prolongs it.
    let prolonged = Race {
        actors: &[("DBA", DBA), ("cleaner", OPERATOR)],
        works: |scene| vec![statement(scene, PROLONG), statement(scene, CLEAN)],
        outcomes: &[&["1", "0"], &["0", "1"]],
        ..race
    };
    prolonged.holds().await;
    prolonged
        .finds(&[(
            "delete_expired_sessions",
            "order by x.cleanup_week limit batch_size - removed for update skip locked",
            "",
        )])
        .await;
}

#[tokio::test]
async fn rotate_and_disable() {
    let race = Race {
        actors: &[("laptop", SERVICE), ("DBA", DBA)],
        works: |scene| vec![present(scene, 2), statement(scene, DISABLE)],
        outcomes: &[&["rotated", "1"], &["revoked", "1"]],
        ..RACE
    };
    race.holds().await;
    // With the wider scope every refresh takes the user's lock first.
    Race { settings: &[("auth_sessions.replay_scope", "user")], ..race }.holds().await;
}

#[tokio::test]
async fn replay_and_disable() {
    let race = Race {
        actors: &[("thief", SERVICE), ("DBA", DBA)],
        works: |scene| vec![present(scene, 0), statement(scene, DISABLE)],
        outcomes: &[&["replayed", "1"], &["revoked", "1"]],
        ..RACE
    };
    race.holds().await;
    Race { settings: &[("auth_sessions.replay_scope", "user")], ..race }.holds().await;
}

#[tokio::test]
async fn login_and_disable() {
    let race = Race {
        actors: &[("phone", SERVICE), ("DBA", DBA)],
        works: |scene| vec![login(scene, PASSWORD), statement(scene, DISABLE)],
        outcomes: &[&["logged_in", "1"], &["refused", "1"]],
        ..RACE
    };
    race.holds().await;
    let unlocked: Break = ("complete_login", "where x.id = u.id for no key update", "where x.id = u.id");
    race.finds(&[unlocked]).await;
}

#[tokio::test]
async fn login_and_change_of_password() {
    let race = Race {
        actors: &[("phone", SERVICE), ("DBA", DBA)],
        works: |scene| vec![login(scene, PASSWORD), statement(scene, CHANGE_PASSWORD)],
        outcomes: &[&["logged_in", "1"], &["stale", "1"]],
        ..RACE
    };
    race.holds().await;
}

#[tokio::test]
async fn login_and_login() {
    // Where one session is allowed, the login that comes last has it.
    let race = Race {
        actors: &[("phone", SERVICE), ("laptop", SERVICE)],
        works: |scene| vec![login(scene, PASSWORD), login(scene, PASSWORD)],
        settings: &[("auth_sessions.max_sessions_per_user", "1")],
        // A session that is there already is locked by both, and so would hide it if nothing else was.
        arrange: "delete from auth.sessions where id = $1",
        outcomes: &[&["logged_in", "logged_in"]],
        ..RACE
    };
    race.holds().await;
    let unlocked: Break = ("complete_login", "where x.id = u.id for no key update", "where x.id = u.id");
    let unlocked_again: Break =
        ("revoke_live_sessions", "where u.id = of_user for no key update", "where u.id = of_user");
    race.finds(&[unlocked, unlocked_again]).await;
}

#[tokio::test]
async fn login_and_lock() {
    // Nine failures have been counted; the tenth locks.
    let race = Race {
        actors: &[("owner", SERVICE), ("guesser", SERVICE)],
        works: |scene| vec![login(scene, PASSWORD), login(scene, "wrong")],
        tables: &["users", "attempts"],
        arrange: "insert into auth.attempts (key, count, updated_at)
                  select auth.attempt_key(auth.login_subject($3)), 9, clock_timestamp()",
        outcomes: &[&["logged_in", "refused"], &["locked", "refused"]],
        ..RACE
    };
    race.holds().await;
    let guessers = Race {
        actors: &[("guesser", SERVICE), ("other guesser", SERVICE)],
        works: |scene| vec![login(scene, "wrong"), login(scene, "false")],
        outcomes: &[&["refused", "refused"], &["refused", "locked"], &["locked", "refused"]],
        ..race
    };
    guessers.holds().await;
}

#[test]
fn stops_stand_before_statements_and_nowhere_else() {
    let body = "
#variable_conflict use_column
declare
  -- don't: select from auth.users;
  x int := (select count(*) from auth.users);
begin
  -- It isn't one: update auth.users;
  select case when a then b else c end into x from auth.users u, auth.users_of(1) where u.name = 'it''s; then';
  if exists (select from auth.users) then
    x := auth.users(1);
    perform from auth.users for update;
  elsif exists (select from auth.users) then
    x := 1;
  else
    delete from auth.users;
  end if;
  case x
    when 1 then
      with gone as (delete from auth.users returning 1) select count(*) into x from gone;
  end case;
  for u in select * from auth.users loop
    continue when u.id is null;
    return next;
  end loop;
exception when others then
  update auth.users set name = '';
end";
    let (stopped, count) = with_stops("f", body, &["users"]);
    let before: Vec<&str> = stopped
        .split("perform model.stop('f ")
        .skip(1)
        .map(|rest| rest.split_once("'); ").unwrap().1.split_once(' ').unwrap().0)
        .collect();
    assert_eq!(before, ["select", "if", "perform", "delete", "with", "for", "update"], "{stopped}");
    assert_eq!(count, 7);
    let mut without = stopped;
    for number in 1..=count {
        without = without.replace(&format!("perform model.stop('f {number}'); "), "");
    }
    assert_eq!(without, body);
}
