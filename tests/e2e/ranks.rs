//! Who may do what to whom in an organization, as one table.

use auth_sessions_tests::sql::{Params, refusal, run, sqlstate, value};
use auth_sessions_tests::tenants::{ROLES, TwoTenants, assume, join, outcome_of};
use auth_sessions_tests::tokens::{random_bytes, sha256};
use uuid::Uuid;

/// What is done, to whom, and its outcome for our owner, our administrator, our member, and the owner of another tenant.
const MATRIX: &str = "
    list_members       -              listed            listed            listed            not_found
    list_sessions      -              listed            listed            insufficient_role not_found
    list_invitations   -              listed            listed            insufficient_role not_found
    end_session        owner          ended             session_not_found insufficient_role not_found
    end_session        admin          ended             session_not_found insufficient_role not_found
    end_session        member         ended             ended             insufficient_role not_found
    end_session        stranger       session_not_found session_not_found insufficient_role not_found
    make_owner         admin          changed           insufficient_role insufficient_role not_found
    make_owner         member         changed           insufficient_role insufficient_role not_found
    make_admin         owner          changed           insufficient_role insufficient_role not_found
    make_admin         member         changed           insufficient_role insufficient_role not_found
    make_member        owner          changed           insufficient_role insufficient_role not_found
    make_member        admin          changed           insufficient_role insufficient_role not_found
    make_member        member         changed           changed           insufficient_role not_found
    make_member        stranger       member_not_found  member_not_found  member_not_found  not_found
    remove             owner          removed           insufficient_role insufficient_role not_found
    remove             admin          removed           insufficient_role insufficient_role not_found
    remove             member         removed           removed           insufficient_role not_found
    remove             stranger       member_not_found  member_not_found  member_not_found  not_found
    remove_myself      -              insufficient_role insufficient_role insufficient_role not_found
    invite_owner       new            invited           insufficient_role insufficient_role not_found
    invite_admin       new            invited           insufficient_role insufficient_role not_found
    invite_member      new            invited           invited           insufficient_role not_found
    invite_member      asked-by-admin invited           invited           insufficient_role not_found
    invite_member      asked-by-owner invited           insufficient_role insufficient_role not_found
    revoke_invitation  asked-by-owner revoked           insufficient_role insufficient_role not_found
    revoke_invitation  asked-by-admin revoked           revoked           insufficient_role not_found
    switch             -              switched          switched          switched          not_found
    leave              -              left              left              left              not_found
";

/// `$1` is the organization, `$2` whom it is done to: a user, a session, an invitation or, as text, an address.
fn statement(operation: &str) -> &'static str {
    match operation {
        "list_members" => "select outcome from auth.list_members($1)",
        "list_sessions" => "select outcome from auth.list_organization_sessions($1)",
        "list_invitations" => "select outcome from auth.list_invitations($1)",
        "end_session" => "select auth.end_organization_session($1, $2)",
        "make_owner" => "select outcome from auth.change_member_role($1, $2, 'ORGANIZATION_OWNER')",
        "make_admin" => "select outcome from auth.change_member_role($1, $2, 'ORGANIZATION_ADMIN')",
        "make_member" => "select outcome from auth.change_member_role($1, $2, 'ORGANIZATION_MEMBER')",
        "remove" => "select outcome from auth.remove_member($1, $2)",
        "remove_myself" => "select outcome from auth.remove_member($1, auth.current_user_id())",
        "invite_owner" => "select outcome from auth.invite_member($1, $2, 'ORGANIZATION_OWNER')",
        "invite_admin" => "select outcome from auth.invite_member($1, $2, 'ORGANIZATION_ADMIN')",
        "invite_member" => "select outcome from auth.invite_member($1, $2, 'ORGANIZATION_MEMBER')",
        "revoke_invitation" => "select auth.revoke_invitation($1, $2)",
        "switch" => "select outcome from auth.switch_organization($1)",
        "leave" => "select outcome from auth.leave_organization($1)",
        _ => panic!("{operation}"),
    }
}

#[tokio::test]
async fn who_may_do_what_to_whom() {
    let TwoTenants { db: _db, admin, service, ours, theirs } = TwoTenants::found().await;
    // The others, to whom it is done.
    let mut others = vec![("stranger", theirs.member.clone())];
    for (name, role) in ROLES {
        others.push((name, join(&admin, &service, ours.id, &format!("{name}-2@ours.example"), role).await));
    }
    let invite = "select outcome from auth.invite_member($1, $2, $3)";
    for (email, role) in
        [("asked-by-owner@x.org", "ORGANIZATION_ADMIN"), ("asked-by-admin@x.org", "ORGANIZATION_MEMBER")]
    {
        assert_eq!(outcome_of(&service, &ours.owner, invite, &[&ours.id, &email, &role]).await, "invited");
    }

    let actors =
        [("owner", &ours.owner), ("admin", &ours.admin), ("member", &ours.member), ("a stranger", &theirs.owner)];
    for line in MATRIX.lines().filter(|line| !line.trim().is_empty()) {
        let (operation, expected) = line.trim().split_once(' ').expect("an operation");
        let (on, expected) = expected.trim().split_once(' ').expect("on whom");
        let (expected, sql): (Vec<&str>, _) = (expected.split_whitespace().collect(), statement(operation));
        assert_eq!(expected.len(), actors.len(), "{line}");
        let email = format!("{on}@x.org");
        let invitation = "select id from auth.organization_invitations where email = $1";
        let target: Option<Uuid> = match others.iter().find(|(name, _)| *name == on) {
            Some((_, who)) if operation == "end_session" => who.session_id,
            Some((_, who)) => who.user_id,
            None if operation == "revoke_invitation" => Some(value(&admin, invitation, &[&email]).await),
            None => None,
        };
        for ((actor, who), expected) in actors.iter().zip(expected) {
            service.batch_execute("begin").await.unwrap();
            assume(&service, who).await;
            let rows = match target {
                Some(target) => service.query(sql, &[&ours.id, &target]).await,
                None if operation.starts_with("invite") => service.query(sql, &[&ours.id, &email]).await,
                None => service.query(sql, &[&ours.id]).await,
            };
            let rows = rows.unwrap_or_else(|error| panic!("{operation} {on} by {actor}: {error:?}"));
            assert_eq!(rows[0].get::<_, String>(0), *expected, "{operation} {on} by {actor}");
            service.batch_execute("rollback").await.unwrap();
        }
        // And by nobody.
        let by_nobody = sql.replace("$1", &format!("'{}'", ours.id)).replace("$2", "gen_random_uuid()");
        let by_nobody = if operation.starts_with("invite") { by_nobody.replace("()", "()::text") } else { by_nobody };
        assert_eq!(sqlstate(&service, &by_nobody).await, "28000", "{operation} by nobody");
    }
}

#[tokio::test]
async fn an_organization_that_is_not_the_active_one_is_not_acted_on() {
    let TwoTenants { db: _db, admin, service, ours, theirs } = TwoTenants::found().await;
    // Our owner owns theirs as well, but acts for ours.
    let insert =
        "insert into auth.organization_members (organization_id, user_id, role) values ($1, $2, 'ORGANIZATION_OWNER')";
    run(&admin, insert, &[&theirs.id, &ours.owner.user_id]).await;
    for operation in MATRIX.lines().filter_map(|line| line.split_whitespace().next()) {
        let (sql, id) = (statement(operation), &theirs.id);
        let outcome = match operation {
            "switch" | "leave" => continue,
            "end_session" => outcome_of(&service, &ours.owner, sql, &[id, &theirs.member.session_id]).await,
            "invite_owner" | "invite_admin" | "invite_member" => {
                outcome_of(&service, &ours.owner, sql, &[id, &"new@x.org"]).await
            }
            _ if sql.contains("$2") => outcome_of(&service, &ours.owner, sql, &[id, &theirs.member.user_id]).await,
            _ => outcome_of(&service, &ours.owner, sql, &[id]).await,
        };
        assert_eq!(outcome, "not_active", "{operation}");
    }
    // The older door asks the same.
    let revoke = "select auth.revoke_session($1)::text";
    assert_eq!(outcome_of(&service, &ours.owner, revoke, &[&theirs.member.session_id]).await, "false");
    let all = "select auth.revoke_user_sessions($1)::text";
    assert_eq!(outcome_of(&service, &ours.owner, all, &[&theirs.member.user_id]).await, "0");
    assert_eq!(outcome_of(&service, &ours.owner, statement("switch"), &[&theirs.id]).await, "switched");
    assert_eq!(outcome_of(&service, &ours.owner, revoke, &[&theirs.member.session_id]).await, "true");
    let remove = statement("remove");
    assert_eq!(outcome_of(&service, &ours.owner, remove, &[&theirs.id, &theirs.member.user_id]).await, "removed");
    assert_eq!(outcome_of(&service, &ours.owner, remove, &[&ours.id, &ours.member.user_id]).await, "not_active");
}

#[tokio::test]
async fn the_older_door_knows_the_ranks_too() {
    let TwoTenants { db: _db, service, ours, .. } = TwoTenants::found().await;
    let revoke = "select auth.revoke_session($1)::text";
    let all = "select auth.revoke_user_sessions($1)::text";
    for (actor, on, ended) in [
        ("member", "admin", false),
        ("member", "owner", false),
        ("admin", "owner", false),
        ("admin", "member", true),
        ("owner", "admin", true),
    ] {
        let (actor, on) = (ours.person(actor), ours.person(on));
        if !ended {
            assert_eq!(outcome_of(&service, actor, all, &[&on.user_id]).await, "0");
        }
        assert_eq!(outcome_of(&service, actor, revoke, &[&on.session_id]).await, ended.to_string());
    }
}

#[tokio::test]
async fn a_personal_access_token_is_held_to_its_scopes_by_the_database_too() {
    let TwoTenants { db: _db, admin, service, ours, theirs } = TwoTenants::found().await;
    let insert =
        "insert into auth.organization_members (organization_id, user_id, role) values ($1, $2, 'ORGANIZATION_OWNER')";
    run(&admin, insert, &[&theirs.id, &ours.owner.user_id]).await;
    let token = async |scope: &str| {
        let (lookup, secret) = (random_bytes(16), random_bytes(32));
        let insert = "insert into auth.personal_access_tokens
                 (user_id, organization_id, name, lookup_id, token_verifier, scopes, expires_at)
             values ($1, $2, 'report', $3, $4, array[$5], now() + interval '1 day')";
        let verifier = sha256(&sha256(&secret));
        run(&admin, insert, &[&ours.owner.user_id, &ours.id, &lookup, &verifier, &scope]).await;
        (lookup, sha256(&secret))
    };
    let (reads, writes, ends) =
        (token("organization:read").await, token("organization:write").await, token("sessions:write").await);
    let attempt = async |token: &(Vec<u8>, Vec<u8>), sql: &str, params: Params<'_>| -> String {
        service.batch_execute("begin").await.unwrap();
        let assume = "select from auth.assume_personal_access_token($1, $2)";
        assert_eq!(run(&service, assume, &[&token.0, &token.1]).await, 1);
        let result = service.query(sql, params).await;
        service.batch_execute("rollback").await.unwrap();
        match result {
            Ok(rows) => rows.first().map_or("listed".to_owned(), |row| row.get(0)),
            failed => refusal(failed).code,
        }
    };
    let member = ours.member.user_id;
    for operation in MATRIX.lines().filter_map(|line| line.split_whitespace().next()) {
        let sql = statement(operation);
        let (with_read, with_write, with_neither) = match operation {
            "list_members" | "list_sessions" | "list_invitations" => (true, false, false),
            // Whatever may raise, or end, somebody takes a session.
            "switch" | "leave" | "remove" | "remove_myself" => (false, false, false),
            operation if operation.starts_with("make_") => (false, false, false),
            _ => (false, true, false),
        };
        for (token, works) in [(&reads, with_read), (&writes, with_write), (&ends, with_neither)] {
            let outcome = match operation {
                "invite_owner" | "invite_admin" | "invite_member" => attempt(token, sql, &[&ours.id, &"x@x.org"]).await,
                _ if sql.contains("$2") => attempt(token, sql, &[&ours.id, &member]).await,
                _ => attempt(token, sql, &[&ours.id]).await,
            };
            assert_eq!(outcome != "42501", works, "{operation}: {outcome}");
        }
    }
    for (sql, works) in [
        ("select outcome from auth.create_organization('Name', 'some-slug')", &writes),
        ("select max('listed') from auth.list_organizations()", &reads),
    ] {
        for token in [&reads, &writes, &ends] {
            assert_eq!(attempt(token, sql, &[]).await == "42501", !std::ptr::eq(token, works), "{sql}");
        }
    }
    let accept = "select outcome from auth.accept_invitation(sha256(''))";
    assert_eq!(attempt(&writes, accept, &[]).await, "42501");
    // It acts for one organization, and the user's others are not there.
    assert_eq!(attempt(&reads, statement("list_members"), &[&theirs.id]).await, "not_found");
    // Ending one's own sessions is no right over others'.
    let revoke = "select auth.revoke_session($1)::text";
    assert_eq!(attempt(&ends, revoke, &[&ours.member.session_id]).await, "false");
    assert_eq!(attempt(&ends, revoke, &[&ours.owner.session_id]).await, "true");
}
