//! The rows that real tables have: odd ones, broken ones, doubled ones. Each is taken over, or reported; none is lost.

use std::path::{Path, PathBuf};

use auth_sessions_tests::adoption::{OLD_PASSWORD, Said, adopt, example, load_example, rollback};
use auth_sessions_tests::sql::{refusal, run, value, values};
use auth_sessions_tests::{Server, TestDb};
use tokio_postgres::Client;

/// The old side of the first example, emptied, for rows of one's own.
async fn empty_example() -> (TestDb, Client) {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    load_example(&admin, "auth_sessions").await;
    admin.batch_execute("delete from public.auth_sessions").await.unwrap();
    (db, admin)
}

async fn adopt_sessions(db: &TestDb) -> Said {
    adopt(db, &example("auth_sessions.toml"), &["--batch-size", "3"]).await.expect()
}

/// The first example's mapping file, changed; removed when dropped.
struct Mapping(PathBuf);

impl Mapping {
    fn of(db: &TestDb, change: impl FnOnce(&str) -> String) -> Self {
        let good = std::fs::read_to_string(example("auth_sessions.toml")).expect("the example");
        let changed = change(&good);
        assert_ne!(changed, good);
        let file = std::env::temp_dir().join(format!("{}.toml", db.name()));
        std::fs::write(&file, changed).expect("the mapping");
        Self(file)
    }

    fn file(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Nothing more can be done about it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A row of the old table; what is not said is good.
async fn old_row(admin: &Client, id: &str, changes: &[(&str, &str)]) {
    let hash = format!("encode(sha256('refresh-token-of-{id}'), 'hex')");
    let good = [
        ("user_id", "'usr_ada'"),
        ("refresh_token_hash", &hash),
        ("family_id", "null"),
        ("rotated_from", "null"),
        ("user_agent", "null"),
        ("ip", "null"),
        ("created_at", "now() - interval '1 day'"),
        ("last_used", "null"),
        ("expires_at", "now() + interval '1 day'"),
        ("revoked_at", "null"),
    ];
    let value = |name| changes.iter().find(|(changed, _)| *changed == name).map(|(_, value)| *value);
    let values: Vec<&str> = good.iter().map(|(name, good)| value(*name).unwrap_or(good)).collect();
    let columns: Vec<&str> = good.iter().map(|(name, _)| *name).collect();
    let insert =
        format!("insert into public.auth_sessions (id, {}) values ('{id}', {})", columns.join(", "), values.join(", "));
    run(admin, &insert, &[]).await;
}

/// `id: outcome`, and of what was not as it should be its problems.
async fn outcomes(admin: &Client) -> Vec<String> {
    let sql = "select r.old_id || ': ' || r.outcome || coalesce(' ' || string_agg(p.problem, ' ' order by p.problem), '')
                 from auth_adoption.old_rows r left join auth_adoption.problems p on p.source = 'sessions' and p.old_id = r.old_id
                group by r.old_id, r.outcome order by length(r.old_id), r.old_id";
    values(admin, sql, &[]).await
}

#[tokio::test]
async fn odd_rows_are_taken_over_and_broken_ones_reported() {
    let (db, admin) = empty_example().await;
    admin
        .batch_execute("alter table public.auth_sessions alter created_at drop not null, alter expires_at drop not null, alter refresh_token_hash type text")
        .await
        .unwrap();
    let shouted = "upper(encode(sha256('refresh-token-of-r4'), 'hex'))";
    for (id, changes) in [
        ("r1", &[("user_agent", r#"e'C:\\new\\tab "x" \t Ünïcödé \\u0000'"#), ("ip", "'192.0.2.1'")][..]),
        ("r2", &[("user_agent", "repeat('ä', 5000)"), ("ip", "'2001:db8:1:2:3:4:5:6'")]),
        ("r3", &[("user_agent", "''"), ("ip", "' ::FFFF:192.0.2.200 '")]),
        ("r4", &[("refresh_token_hash", shouted), ("ip", "'fe80::1%eth0'")]),
        ("r5", &[("ip", "''"), ("created_at", "null"), ("last_used", "null")]),
        ("r6", &[("created_at", "now() + interval '1 year'"), ("ip", "'999.1.1.1'")]),
        ("r7", &[("expires_at", "null")]),
        ("r8", &[("expires_at", "'infinity'"), ("created_at", "'-infinity'")]),
        ("r9", &[("user_id", "null")]),
        ("r10", &[("user_id", "'usr_nobody'")]),
        ("r11", &[("refresh_token_hash", "null")]),
        ("r12", &[("refresh_token_hash", "repeat('g', 64)")]),
        ("r13", &[("refresh_token_hash", "''"), ("expires_at", "now() - interval '1 second'")]),
        ("r14", &[("user_id", "null"), ("revoked_at", "now()")]),
    ] {
        old_row(&admin, id, changes).await;
    }
    let said = adopt_sessions(&db).await;
    assert_eq!(
        outcomes(&admin).await,
        [
            "r1: current",
            "r2: current",
            "r3: current",
            "r4: current malformed_address",
            "r5: current no_created_at",
            "r6: current created_in_the_future malformed_address",
            "r7: current no_expires_at",
            "r8: current",
            "r9: refused no_user",
            "r10: refused unknown_user",
            "r11: refused no_token",
            "r12: refused malformed_token",
            "r13: ended",
            "r14: ended",
        ]
    );
    for line in ["8  old rows: current", "4  old rows: refused", "2  old rows: ended", "1  refused: sessions no_token"]
    {
        assert!(said.out.contains(line), "{line}: {said:?}");
    }
    let sessions: Vec<String> = values(
        &admin,
        "select concat_ws(' ', r.old_id, octet_length(s.user_agent), s.last_ip_cidr, s.auth_time = 'epoch', s.auth_time <= clock_timestamp(),
                          s.idle_expires_at <= s.expires_at and s.expires_at <= clock_timestamp() + interval '30 days')
           from auth_adoption.old_rows r join auth.sessions s on s.id = r.session_id order by 1",
        &[],
    )
    .await;
    assert_eq!(
        sessions,
        [
            "r1 35 192.0.2.0/24 f t t",
            "r2 512 2001:db8:1:2::/64 f t t",
            "r3 0 192.0.2.0/24 f t t",
            "r4 f t t",
            "r5 t t t",
            "r6 f t t",
            "r7 f t t",
            "r8 t t t",
        ]
    );
    let server = Server::start(&db, &[("ADOPTED_TOKEN_FORMAT", "sha256-hex")]).await;
    for holder in 1..=8 {
        server.api().refresh(&format!("refresh-token-of-r{holder}")).await.expect(200);
    }
}

#[tokio::test]
async fn of_a_token_that_is_there_twice_one_session_is_made_or_none() {
    let (db, admin) = empty_example().await;
    let of = |holder: &str| format!("encode(sha256('refresh-token-of-{holder}'), 'hex')");
    let (same, everybodys, kept) = (of("same"), of("everybody"), of("kept"));
    for (id, changes) in [
        // Of one user: the newest goes on.
        ("d1", &[("refresh_token_hash", same.as_str()), ("created_at", "now() - interval '3 days'")][..]),
        ("d2", &[("refresh_token_hash", &same), ("created_at", "now() - interval '2 days'")]),
        // Of several: nobody can tell whose it is.
        ("d3", &[("refresh_token_hash", &everybodys)]),
        ("d4", &[("refresh_token_hash", &everybodys), ("user_id", "'usr_bob'")]),
        // The old system refreshed without giving a new token: it is still the current one.
        ("d5", &[("refresh_token_hash", &kept), ("family_id", "'f'"), ("created_at", "now() - interval '2 days'")]),
        ("d6", &[("refresh_token_hash", &kept), ("family_id", "'f'"), ("rotated_from", "'d5'")]),
    ] {
        old_row(&admin, id, changes).await;
    }
    adopt_sessions(&db).await;
    assert_eq!(
        outcomes(&admin).await,
        [
            "d1: refused duplicate_token",
            "d2: current",
            "d3: refused token_of_several_users",
            "d4: refused token_of_several_users",
            "d5: refused duplicate_token",
            "d6: current",
        ]
    );
    let api = Server::start(&db, &[("ADOPTED_TOKEN_FORMAT", "sha256-hex")]).await;
    let api = api.api();
    api.refresh("refresh-token-of-same").await.expect(200);
    api.refresh("refresh-token-of-kept").await.expect(200);
    api.refresh("refresh-token-of-everybody").await.expect_problem(401, "invalid_refresh_token");
}

#[tokio::test]
async fn families_are_found_by_column_and_by_links() {
    let (db, admin) = empty_example().await;
    // 300 refreshes long, in no order of ids, without a family column's help.
    let chain = "insert into public.auth_sessions (id, user_id, refresh_token_hash, rotated_from, created_at, expires_at)
                 select 'c' || (n * 7919) % 1000, 'usr_ada', encode(sha256(('refresh-token-of-c' || n)::bytea), 'hex'),
                        case when n > 1 then 'c' || ((n - 1) * 7919) % 1000 end, now() - (301 - n) * interval '1 hour', now() + interval '1 day'
                   from generate_series(1, 300) n";
    run(&admin, chain, &[]).await;
    for (id, changes) in [
        // Two tabs refreshed one token at once: both hold a good one.
        ("f1", &[("family_id", "'0c9d0e55-6a0e-4e0e-9d43-8f4c55a6f001'"), ("revoked_at", "now()")][..]),
        ("f2", &[("family_id", "'0c9d0e55-6a0e-4e0e-9d43-8f4c55a6f001'"), ("rotated_from", "'f1'")]),
        ("f3", &[("family_id", "'0c9d0e55-6a0e-4e0e-9d43-8f4c55a6f001'"), ("rotated_from", "'f1'")]),
        // The same name for another user's family.
        ("f4", &[("family_id", "'0c9d0e55-6a0e-4e0e-9d43-8f4c55a6f001'"), ("user_id", "'usr_bob'")]),
        // Logged out: what was consumed before has nothing to burn.
        ("f5", &[("family_id", "'g'")]),
        ("f6", &[("family_id", "'g'"), ("rotated_from", "'f5'"), ("revoked_at", "now()")]),
        // A circle, and a row that names one that is gone.
        ("f7", &[("rotated_from", "'f8'")]),
        ("f8", &[("rotated_from", "'f7'")]),
        ("f9", &[("rotated_from", "'cleaned'")]),
    ] {
        old_row(&admin, id, changes).await;
    }
    adopt_sessions(&db).await;
    let outcomes: Vec<String> = outcomes(&admin).await.into_iter().filter(|row| row.starts_with('f')).collect();
    assert_eq!(
        outcomes,
        [
            "f1: consumed",
            "f2: current",
            "f3: current",
            "f4: current",
            "f5: ended",
            "f6: ended",
            "f7: ended",
            "f8: ended",
            "f9: current"
        ]
    );
    let chain = "select count(distinct family_id)::text || ' ' || string_agg(distinct outcome, ' ') || ' ' || count(*)
                   from auth_adoption.old_rows where old_id like 'c%'";
    assert_eq!(value::<String>(&admin, chain, &[]).await, "1 consumed current 300");
    let families: Vec<String> = values(
        &admin,
        "select string_agg(r.old_id, ' ' order by r.old_id) from auth_adoption.old_rows r where r.outcome = 'current' and r.old_id like 'f%'
          group by r.family_id order by 1",
        &[],
    )
    .await;
    assert_eq!(families, ["f2 f3", "f4", "f9"]);

    let server = Server::start(&db, &[("ADOPTED_TOKEN_FORMAT", "sha256-hex")]).await;
    let api = server.api();
    for holder in ["f2", "f3", "f4", "f9", "c300"] {
        api.refresh(&format!("refresh-token-of-{holder}")).await.expect(200);
    }
    // The login's own token, 299 refreshes ago; and one of a family of two.
    for holder in ["c1", "f1"] {
        api.refresh(&format!("refresh-token-of-{holder}")).await.expect_problem(401, "invalid_refresh_token");
    }
    let revoked = "select string_agg(r.old_id, ' ' order by r.old_id) from auth_adoption.old_rows r join auth.sessions s on s.id = r.session_id
                    where r.outcome = 'current' and s.revoked_reason = 'token_replay'";
    let newest = format!("c{} f2 f3", 300 * 7919 % 1000);
    assert_eq!(value::<String>(&admin, revoked, &[]).await, newest);
}

#[tokio::test]
async fn a_family_column_is_enough_and_hashes_may_be_bytes() {
    let (db, admin) = empty_example().await;
    for (id, changes) in [
        ("b1", &[("family_id", "'f'"), ("revoked_at", "now()")][..]),
        ("b2", &[("family_id", "'f'")]),
        ("b3", &[("family_id", "'g'"), ("revoked_at", "now()")]),
        ("b4", &[("refresh_token_hash", "'abcd'")]),
    ] {
        old_row(&admin, id, changes).await;
    }
    let as_bytes =
        "alter table public.auth_sessions alter refresh_token_hash type bytea using decode(refresh_token_hash, 'hex')";
    admin.batch_execute(as_bytes).await.unwrap();
    let mapping = Mapping::of(&db, |good| good.replace("rotated_from = ", "# "));
    adopt(&db, mapping.file(), &[]).await.expect();
    let expected = ["b1: consumed", "b2: current", "b3: ended", "b4: refused malformed_token"];
    assert_eq!(
        outcomes(&admin).await,
        expected,
        "nothing links rows: who was revoked in a family that lives on was consumed"
    );
    let server = Server::start(&db, &[("ADOPTED_TOKEN_FORMAT", "sha256-hex")]).await;
    server.api().refresh("refresh-token-of-b2").await.expect(200);
    server.api().refresh("refresh-token-of-b1").await.expect_problem(401, "invalid_refresh_token");
    let ended: i64 =
        value(&admin, "select count(*) from auth.sessions where revoked_reason = 'token_replay'", &[]).await;
    assert_eq!(ended, 1);
}

#[tokio::test]
async fn users_that_are_here_already_need_no_mapping() {
    let (db, admin) = empty_example().await;
    let here = "11111111-2222-4333-8444-555555555501";
    let user = format!("insert into auth.users (id, email, name) values ('{here}', 'ada@example.org', 'Ada')");
    run(&admin, &user, &[]).await;
    admin.batch_execute("alter table public.auth_sessions alter user_id type text").await.unwrap();
    for (id, user) in [("h1", here), ("h2", "11111111-2222-4333-8444-555555555502"), ("h3", "usr_ada")] {
        old_row(&admin, id, &[("user_id", &format!("'{user}'"))]).await;
    }
    let mapping = Mapping::of(&db, |good| good[good.find("[sessions]").expect("a section")..].to_owned());
    adopt(&db, mapping.file(), &[]).await.expect();
    assert_eq!(outcomes(&admin).await, ["h1: current", "h2: refused unknown_user", "h3: refused unknown_user"]);
    adopt(&db, mapping.file(), &["--verify-only"]).await.expect();
    rollback(&db, &[]).await.expect();
    let left: i64 = value(&admin, "select count(*) from auth.users", &[]).await;
    assert_eq!(left, 1, "who was here stays");
}

#[tokio::test]
async fn somebody_elses_account_here_gets_nobodys_sessions() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    load_example(&admin, "sessions").await;
    let server = Server::start(
        &db,
        &[
            ("ADOPTED_TOKEN_FORMAT", "hmac-sha256"),
            ("ADOPTED_TOKEN_KEY", "hex:6f1c29b0a4d87e53c1902b5fe68d3a74b9e2075dd14f8cc6530ae97b28f461d9"),
        ],
    )
    .await;
    let api = server.api();
    // Somebody signed up here with Grace's address before the adoption; Alan is here already as himself.
    api.signup("Grace@example.org").await;
    let alan = "insert into auth.users (id, email, name) values ('11111111-2222-4333-8444-555555555502', 'Alan@example.org', 'Alan, as he was here')";
    run(&admin, alan, &[]).await;
    adopt(&db, &example("sessions.toml"), &[]).await.expect();
    let problems: Vec<String> = values(
        &admin,
        "select concat_ws(' ', source, right(old_id, 2), problem, outcome) from auth_adoption.problems where outcome = 'refused' order by 1",
        &[],
    )
    .await;
    assert_eq!(
        problems,
        [
            "sessions 01 unknown_user refused",
            "sessions 02 unknown_user refused",
            "sessions 04 malformed_token refused",
            "users 01 email_taken refused",
        ]
    );
    api.refresh("refresh-token-of-grace-laptop").await.expect_problem(401, "invalid_refresh_token");
    api.login("grace@example.org", OLD_PASSWORD).await.expect(200); // the one of here: the tests' usual password
    api.refresh("refresh-token-of-alan-laptop").await.expect(200);
    let name: String = value(&admin, "select name from auth.users where email = 'Alan@example.org'", &[]).await;
    assert_eq!(name, "Alan, as he was here", "who is here already stays as they are");
}

#[tokio::test]
async fn a_mapping_that_does_not_fit_is_refused_before_anything_is_touched() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    load_example(&admin, "auth_sessions").await;
    admin.batch_execute("create view public.a_view as select * from public.auth_sessions").await.unwrap();
    for (from, to, why) in [
        ("public.auth_sessions", "public.no_such_table", "there is no table public.no_such_table"),
        ("public.auth_sessions", "public.a_view", "not an ordinary table"),
        ("public.auth_sessions", "auth.sessions", "not an ordinary table"),
        ("\"expires_at\"", "\"expiry\"", "has no column \"expiry\""),
        ("\"expires_at\"", "\"user_agent\"", "cannot be read as expires_at"),
        ("id = \"id\"                           # the", "id = \"user_id\" # the", "not unique"),
        ("hide = [\"current_jti\"]", "hide = [\"secret\"]", "has no column \"secret\""),
        ("[sessions]", "[sessions]\ntime_zone = \"Atlantis\"", "time zone \"Atlantis\""),
        ("[sessions]", "[sessions]\nexpire_at = \"x\"", "expire_at"),
    ] {
        let mapping = Mapping::of(&db, |good| good.replace(from, to));
        let said = adopt(&db, mapping.file(), &[]).await.expect_refusal();
        assert!(said.contains(why), "{to}: {said}");
        assert!(!value::<bool>(&admin, "select to_regnamespace('auth_adoption') is not null", &[]).await, "{to}");
    }
    let refused = refusal(admin.batch_execute("drop table public.auth_sessions").await);
    assert_eq!(refused.code, "2BP01", "it is where it was, with its view: {refused:?}");
    // Somebody who is no superuser is told so.
    let url = db.url("auth_operator");
    let settings = [("ADMIN_DATABASE_URL", url.as_str())];
    let said = auth_sessions_tests::server::auth_api(&["rollback"], &settings).await;
    assert!(String::from_utf8_lossy(&said.stderr).contains("not a superuser"), "{said:?}");
}
