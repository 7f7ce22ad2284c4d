//! Rate limits as the database keeps them: exactly as many as allowed, whoever asks at once; refusals that do not fill
//! the log; and what an operator sees and undoes.

use auth_sessions_tests::TestDb;
use auth_sessions_tests::sql::{Params, connections, race, refusal, run, value, values};
use auth_sessions_tests::tokens::{PASSWORD, log_in, password_proof, random_bytes, sign_up};
use tokio_postgres::Client;

/// One call: allowed, retry_after and more_after in seconds, remaining.
struct Taken {
    allowed: bool,
    retry_after: Option<f64>,
    remaining: i32,
    more_after: f64,
}

async fn take(service: &Client, scope: &str, key: &str, burst: i32, period: &str) -> Taken {
    let row = service
        .query_one(
            "select allowed, extract(epoch from retry_after)::float8, remaining, extract(epoch from more_after)::float8
               from auth.take_rate_limit($1, $2, $3, $4::text::interval)",
            &[&scope, &key, &burst, &period],
        )
        .await
        .unwrap();
    Taken { allowed: row.get(0), retry_after: row.get(1), remaining: row.get(2), more_after: row.get(3) }
}

async fn let_time_pass(admin: &Client, seconds: f64) {
    let back = "update auth.attempts set full_at = full_at - make_interval(secs => $1),
                       updated_at = updated_at - make_interval(secs => $1), locked_until = locked_until - make_interval(secs => $1)";
    run(admin, back, &[&seconds]).await;
}

#[tokio::test]
async fn of_many_at_once_exactly_the_burst_is_allowed() {
    let db = TestDb::create().await;
    let clients = connections(&db, "auth_service", 32).await;
    for (round, burst) in [(0, 10), (1, 7), (2, 1), (3, 31)] {
        let key = format!("key {round}");
        // Each of the 32 asks twice.
        let answers = race(&clients, move |_, client| {
            let key = key.clone();
            async move {
                [take(&client, "test", &key, burst, "1 day").await, take(&client, "test", &key, burst, "1 day").await]
            }
        })
        .await;
        let answers: Vec<_> = answers.into_iter().flatten().collect();
        let mut remaining: Vec<i32> =
            answers.iter().filter(|taken| taken.allowed).map(|taken| taken.remaining).collect();
        remaining.sort_unstable();
        assert_eq!(remaining, (0..burst).collect::<Vec<_>>(), "each of the burst was given away once");
        assert!(answers.iter().all(|taken| taken.allowed == taken.retry_after.is_none()));
        let wait = 86_400.0 / f64::from(burst);
        for refused in answers.iter().filter(|taken| !taken.allowed) {
            let seconds = refused.retry_after.unwrap();
            assert!((wait - 60.0..=wait).contains(&seconds) && refused.remaining == 0, "{seconds} of {wait}");
        }
    }
}

#[tokio::test]
async fn what_was_taken_comes_back_evenly() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let ask = async || take(&service, "test", "key", 4, "400 seconds").await;
    for remaining in [3, 2, 1, 0] {
        let taken = ask().await;
        assert!(taken.allowed && taken.remaining == remaining);
        assert!((95.0..=100.0).contains(&taken.more_after), "{}", taken.more_after);
    }
    let refused = ask().await;
    assert!(!refused.allowed && refused.more_after == refused.retry_after.unwrap());
    // A refusal costs nothing: who waits as long as he is told is allowed, once.
    let_time_pass(&admin, refused.retry_after.unwrap()).await;
    assert!(ask().await.allowed);
    assert!(!ask().await.allowed);
    // Half of the period gives half of the burst, all of it no more than the burst.
    let_time_pass(&admin, 205.0).await;
    assert_eq!([ask().await.allowed, ask().await.allowed, ask().await.allowed], [true, true, false]);
    let_time_pass(&admin, 80_000.0).await;
    for _ in 0..4 {
        assert!(ask().await.allowed);
    }
    assert!(!ask().await.allowed);

    // Others are not concerned: another key, another scope.
    assert!(take(&service, "test", "other", 4, "400 seconds").await.allowed);
    assert!(take(&service, "other", "key", 4, "400 seconds").await.allowed);
    // A limit that an operator makes shorter is the shorter one at once.
    let shorter = take(&service, "test", "key", 4, "4 seconds").await;
    let wait = shorter.retry_after.unwrap();
    assert!(wait <= 1.0, "{wait}");
    let_time_pass(&admin, wait).await;
    assert!(take(&service, "test", "key", 4, "4 seconds").await.allowed);
}

#[tokio::test]
async fn refusals_are_logged_less_and_less_often_until_it_was_calm() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let logged = async || {
        let rows = "select (details ->> 'times')::int from auth.security_events
                     where action = 'rate_limit_exceeded' and not success and details ->> 'scope' = 'test' order by id";
        values::<i32>(&admin, rows, &[]).await
    };
    let flood = async |count| {
        for _ in 0..count {
            take(&service, "test", "192.0.2.0/24", 2, "1 hour").await;
        }
    };
    flood(2).await;
    assert_eq!(logged().await, Vec::<i32>::new(), "what is allowed is nobody's business");
    flood(20).await;
    assert_eq!(logged().await, [1, 2, 4, 8, 16]);
    // One more was allowed meanwhile, but the flood goes on.
    let_time_pass(&admin, 1800.0).await;
    flood(10).await;
    assert_eq!(logged().await, [1, 2, 4, 8, 16], "29 refusals");
    let_time_pass(&admin, 7200.0).await;
    flood(3).await;
    assert_eq!(logged().await, [1, 2, 4, 8, 16, 1], "a new one");
    // The table of the throttles names nobody.
    let shown: Vec<String> = values(&admin, "select a::text from auth.attempts a", &[]).await;
    assert!(shown.iter().all(|row| !row.contains("192.0")), "{shown:?}");
}

#[tokio::test]
async fn several_are_taken_in_their_order_up_to_the_first_refusal() {
    let db = TestDb::create().await;
    let service = db.connect_as("auth_service").await;
    let both = async |network: &str| {
        let rows = service
            .query(
                "select scope, allowed, remaining from auth.take_rate_limits(
                     array['by_network', 'by_account'], array[$1, 'ada@example.org'], array[2, 5],
                     array['1 hour', '1 hour']::interval[], ip => '192.0.2.7', correlation_id => 'test')",
                &[&network],
            )
            .await
            .unwrap();
        let shown = |row: &tokio_postgres::Row| {
            format!("{} {} {}", row.get::<_, &str>(0), row.get::<_, bool>(1), row.get::<_, i32>(2))
        };
        rows.iter().map(shown).collect::<Vec<_>>()
    };
    assert_eq!(both("a").await, ["by_network true 1", "by_account true 4"]);
    assert_eq!(both("a").await, ["by_network true 0", "by_account true 3"]);
    for _ in 0..10 {
        assert_eq!(both("a").await, ["by_network false 0"], "the account's own is left alone");
    }
    assert_eq!(both("b").await, ["by_network true 1", "by_account true 2"]);
}

#[tokio::test]
async fn a_bad_argument_is_refused_with_a_hint_and_counts_nothing() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    for (call, code) in [
        ("auth.take_rate_limit(null, 'k', 1, '1 hour')", "22004"),
        ("auth.take_rate_limit('s', null, 1, '1 hour')", "22004"),
        ("auth.take_rate_limit('s', 'k', null, '1 hour')", "22004"),
        ("auth.take_rate_limit('s', 'k', 1, null)", "22004"),
        ("auth.take_rate_limit('', 'k', 1, '1 hour')", "22023"),
        ("auth.take_rate_limit('s', '', 1, '1 hour')", "22023"),
        ("auth.take_rate_limit('s', repeat('k', 1001), 1, '1 hour')", "22023"),
        ("auth.take_rate_limit('s', 'k', 0, '1 hour')", "22023"),
        ("auth.take_rate_limit('s', 'k', 1000001, '1 hour')", "22023"),
        ("auth.take_rate_limit('s', 'k', 1, '0')", "22023"),
        ("auth.take_rate_limit('s', 'k', 1, '25 hours')", "22023"),
        ("auth.take_rate_limits(array['s'], array['k'], array[1], null)", "22004"),
        ("auth.take_rate_limits('{}', '{}', '{}', '{}')", "22023"),
        ("auth.take_rate_limits(array['s'], array['k', 'l'], array[1], array[interval '1 hour'])", "22023"),
        ("auth.take_rate_limits(array['s'], array['k'], array[1, 2], array[interval '1 hour'])", "22023"),
    ] {
        let refused = refusal(service.execute(&format!("select * from {call}"), &[]).await);
        assert_eq!(refused.code, code, "{call}: {refused:?}");
        assert_ne!(refused.hint, "", "{call}: {refused:?}");
    }
    assert_eq!(value::<i64>(&admin, "select count(*) from auth.attempts", &[]).await, 0);
    let operator = db.connect_as("auth_operator").await;
    for call in ["auth.unlock_account(null)"] {
        let refused = refusal(operator.execute(&format!("select {call}"), &[]).await);
        assert_eq!((refused.code.as_str(), refused.hint.is_empty()), ("22004", false), "{call}");
    }
}

#[tokio::test]
async fn with_many_keys_each_is_found_by_index_and_the_old_ones_are_forgotten() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let operator = db.connect_as("auth_operator").await;
    let fill = "insert into auth.attempts (key, updated_at, full_at)
                select sha256(n::text::bytea), now() - case when n % 50 = 0 then interval '25 hours' else interval '0' end, now()
                  from generate_series(1, 100000) n";
    run(&admin, fill, &[]).await;
    admin.batch_execute("vacuum analyze auth.attempts").await.unwrap();
    for _ in 0..3 {
        take(&service, "test", "key", 1, "1 hour").await;
    }
    // What really ran is in the statistics: a sequential scan of 100,000 rows could not hide there.
    let scans = "select seq_scan || ' ' || seq_tup_read from pg_stat_xact_all_tables
                  where relid = 'auth.attempts'::regclass and seq_scan > 0";
    let hot =
        "select n_tup_upd || ' ' || n_tup_hot_upd from pg_stat_xact_all_tables where relid = 'auth.attempts'::regclass";
    service.batch_execute("begin").await.unwrap();
    take(&service, "test", "key", 1, "1 hour").await;
    take(&service, "test", "key", 1, "1 hour").await;
    log_in(&service, "nobody@example.org", "wrong").await;
    log_in(&service, "nobody@example.org", "wrong").await;
    assert_eq!(values::<String>(&service, scans, &[]).await, Vec::<String>::new());
    let (updated, hot): (i32, i32) = {
        let text: String = value(&service, hot, &[]).await;
        let (updated, hot) = text.split_once(' ').unwrap();
        (updated.parse().unwrap(), hot.parse().unwrap())
    };
    service.batch_execute("commit").await.unwrap();
    assert!(updated >= 3 && hot >= updated - 1, "{hot} of {updated} updates were HOT");

    operator.batch_execute("begin").await.unwrap();
    while value::<i64>(&admin, "select count(*) from auth.attempts where updated_at < now() - interval '1 day'", &[])
        .await
        > 0
    {
        run(&operator, "select auth.cleanup_expired_sessions(500, '7 days')", &[]).await;
        assert_eq!(values::<String>(&operator, scans, &[]).await, Vec::<String>::new());
        operator.batch_execute("commit; begin").await.unwrap();
    }
    let left: i64 = value(&admin, "select count(*) from auth.attempts where full_at is not null", &[]).await;
    assert_eq!(left, 98_001, "those of today are kept");
}

/// Fails to log in from an address.
async fn fail_from(service: &Client, email: &str, ip: &str) -> String {
    let statement = "select outcome from auth.complete_login($1, 1, $2, $3, ip => $4::text::inet)";
    value(service, statement, &[&email, &password_proof("wrong"), &random_bytes(32), &ip]).await
}

#[tokio::test]
async fn an_operator_unlocks_an_account() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let operator = db.connect_as("auth_operator").await;
    sign_up(&service, "ada@example.org").await;
    let unlock =
        async |email: &str| value::<bool>(&operator, "select auth.unlock_account($1, 'ticket-4711')", &[&email]).await;
    assert!(!unlock("ada@example.org").await, "it is not locked");
    for email in ["ada@example.org", "nobody@example.org"] {
        for _ in 0..10 {
            log_in(&service, email, "wrong").await;
        }
        assert_eq!(log_in(&service, email, PASSWORD).await.outcome, "locked");
        take(&service, "login_account", email, 1, "1 hour").await;
        assert!(!take(&service, "login_account", email, 1, "1 hour").await.allowed);
        assert!(unlock(&email.to_uppercase()).await);
        assert!(!unlock(email).await, "it is not locked any more");
        assert!(take(&service, "login_account", email, 1, "1 hour").await.allowed, "nor limited");
        for _ in 0..9 {
            assert_eq!(log_in(&service, email, "wrong").await.outcome, "refused", "the count starts again");
        }
    }
    assert_eq!(log_in(&service, "ada@example.org", PASSWORD).await.outcome, "logged_in");
    let logged: Vec<String> = values(
        &admin,
        "select concat_ws(' ', u.email, a.actor, a.correlation_id, a.success::text) from auth.security_events a
           left join auth.users u on u.id = a.user_id where a.action = 'user_account_unlocked' order by a.id",
        &[],
    )
    .await;
    assert_eq!(logged, ["ada@example.org auth_operator ticket-4711 true", "auth_operator ticket-4711 true"]);
    let refused = refusal(service.execute("select auth.unlock_account('ada@example.org')", &[]).await);
    assert_eq!(refused.code, "42501", "not by the service");
}

#[tokio::test]
async fn guessing_is_seen_from_many_accounts_or_many_networks_once() {
    let db = TestDb::create().await;
    db.set("auth_sessions.suspicious_accounts", "5").await;
    db.set("auth_sessions.suspicious_networks", "4").await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    sign_up(&service, "ada@example.org").await;
    let seen = async || {
        let rows =
            "select concat_ws(' ', details ->> 'pattern', coalesce(details ->> 'accounts', details ->> 'networks'),
                                     host(ip_cidr), (user_id is not null)::text)
                      from auth.security_events where action = 'suspicious_activity_detected' order by id";
        values::<String>(&admin, rows, &[]).await
    };
    // The same few again and again are no pattern: people mistype.
    for n in 0..12 {
        fail_from(&service, &format!("user{}@example.org", n % 4), &format!("198.51.100.{n}")).await;
    }
    assert_eq!(seen().await, Vec::<String>::new());
    for n in 0..10 {
        fail_from(&service, &format!("list{n}@example.org"), "198.51.100.77").await;
    }
    assert_eq!(seen().await, ["many_accounts_from_one_network 5 198.51.100.0 false"], "once");
    for n in 0..8 {
        fail_from(&service, "ada@example.org", &format!("203.0.{n}.1")).await;
    }
    let all =
        ["many_accounts_from_one_network 5 198.51.100.0 false", "one_account_from_many_networks 4 203.0.3.0 true"];
    assert_eq!(seen().await, all);
    // In the next hour it is counted, and said, anew.
    run(&admin, "delete from auth.attempts", NONE).await;
    for n in 0..5 {
        fail_from(&service, &format!("list{n}@example.org"), "198.51.100.77").await;
    }
    assert_eq!(seen().await.len(), 3);
    db.set("auth_sessions.suspicious_accounts", "0").await;
    let quiet = db.connect_as("auth_service").await;
    for n in 0..10 {
        fail_from(&quiet, &format!("more{n}@example.org"), "192.0.2.1").await;
    }
    assert_eq!(seen().await.len(), 3, "0 turns it off");
}

const NONE: Params<'static> = &[];
