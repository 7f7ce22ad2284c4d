//! What only a real browser can show, in Debian's Chromium (`tests/browser`).

use std::process::Stdio;

use auth_sessions_tests::{
    Server, TestDb,
    sql::{let_authentication_age, run},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::Command,
};
use tokio_postgres::Client;

/// A port that nobody has at the moment; whoever takes it meanwhile makes the script fail with a clear error.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Runs a script. It is told ports, not addresses: browsers keep Secure cookies for `localhost`. A line `@WHAT` of it is done
/// in the database, and answered with a line.
async fn browse(arguments: &[&str], server: &Server, admin: &Client) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/browser/run");
    let mut command = Command::new(script);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("tests/browser/run");
    let mut stdin = child.stdin.take().expect("piped");
    let mut stderr = child.stderr.take().expect("piped");
    let complaints = tokio::spawn(async move {
        let mut said = String::new();
        let _ = stderr.read_to_string(&mut said).await;
        said
    });
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut said = String::new();
    while let Some(line) = lines.next_line().await.expect("a line") {
        if let Some(what) = line.strip_prefix('@') {
            arrange(admin, what).await;
            stdin.write_all(b"done\n").await.expect("it listens");
        } else {
            said += &line;
            said.push('\n');
        }
    }
    let status = child.wait().await.expect("its end");
    assert!(status.success(), "{said}{}\n{}", complaints.await.expect("stderr"), server.log());
}

/// What a script cannot do by HTTP.
async fn arrange(admin: &Client, what: &str) {
    match what {
        "end every session" => {
            run(admin, "select auth.revoke_session_family(family_id) from auth.sessions", &[]).await;
        }
        "let the authentication age" => let_authentication_age(admin, "1 hour").await,
        "name every device a script" => {
            let name = r#"<img src=x onerror=alert(1)><script>alert(2)</script>'""#;
            run(admin, "update auth.sessions set device_name = $1, user_agent = $1", &[&name]).await;
        }
        "verify every e-mail" => {
            run(admin, "update auth.users set email_verified_at = now()", &[]).await;
        }
        "let mary join engines" => {
            let join = "insert into auth.organization_members (organization_id, user_id, role)
                        select o.id, u.id, 'ORGANIZATION_MEMBER' from auth.organizations o, auth.users u
                         where o.slug = 'engines' and u.email like 'mary@%'";
            run(admin, join, &[]).await;
            let acts = "update auth.sessions s set organization_id = m.organization_id from auth.organization_members m
                         where m.user_id = s.user_id and s.organization_id is null";
            run(admin, acts, &[]).await;
        }
        "appoint olga" => {
            run(admin, "select auth.appoint_operator(id) from auth.users where email like 'olga@%'", &[]).await;
        }
        "dismiss olga" => {
            run(admin, "select auth.dismiss_operator(id) from auth.users where email like 'olga@%'", &[]).await;
        }
        // A month of an installation that is in use, so that there is something to draw.
        "take samples" => {
            let samples = "insert into auth.samples
                select t, 900 + 12 * n % 400 + n / 8, 890 + 12 * n % 400 + n / 8, 300, 250, (900 + n / 8) * 700, 4000000 + n * 9000, 14 + n * 7 % 23, 11 + n * 5 % 19,
                       case when n % 96 between 30 and 36 then 40 + n * 11 % 60 else 2 + n % 3 end, (n % 96 = 33)::int, (n % 397 = 7)::int,
                       '2026-01-01', n * 800::bigint + 90 * (n % 40), n * 9::bigint, n * 3::bigint
                  from (select n, now() - make_interval(mins => 15 * (2880 - n)) - interval '1 minute' as t from generate_series(0, 2880) n) s";
            run(admin, samples, &[]).await;
        }
        _ => panic!("nobody knows how to {what}"),
    }
}

#[tokio::test]
async fn cookies_are_kept_sent_and_withheld_as_they_are_meant_to() {
    let db = TestDb::create().await;
    let app_port = free_port();
    let origin = format!("http://localhost:{app_port}");
    let server = Server::start(&db, &[("CORS_ORIGINS", origin.as_str())]).await;
    let app_port = app_port.to_string();
    browse(&["cookies.mjs", &server.port().to_string(), &app_port], &server, &db.superuser().await).await;
}

#[tokio::test]
async fn the_account_page_does_what_it_says() {
    let db = TestDb::create().await;
    // So that a script can come from other networks.
    let server = Server::start(&db, &[("TRUSTED_PROXIES", "127.0.0.1")]).await;
    browse(&["account.mjs", &server.port().to_string()], &server, &db.superuser().await).await;
}

#[tokio::test]
async fn the_dashboard_shows_to_each_what_is_theirs() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[("RATE_LIMIT_LOGIN", "off"), ("RATE_LIMIT_SIGNUP", "off")]).await;
    browse(&["dashboard.mjs", &server.port().to_string()], &server, &db.superuser().await).await;
}

#[tokio::test]
async fn the_vendored_libraries_are_those_of_their_packages() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/browser/run");
    let output = Command::new(script).arg("vendored.mjs").output().await.expect("tests/browser/run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
