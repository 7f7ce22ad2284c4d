//! Founding organizations, their slugs, and which one a session acts for.

use std::time::SystemTime;

use auth_sessions_tests::TestDb;
use auth_sessions_tests::sql::{connections, race, refusal, revoked_reason, run, session_row, value, values};
use auth_sessions_tests::tenants::{Tenant, act_as, assume, outcome_of, role_of};
use auth_sessions_tests::tokens::{Outcome, PASSWORD, log_in, rotate, try_sign_up};
use tokio_postgres::Client;
use uuid::Uuid;

const CREATE: &str = "select outcome from auth.create_organization($1, $2, correlation_id => 'request-1')";
const SWITCH: &str = "select outcome from auth.switch_organization($1, correlation_id => 'request-1')";

async fn start() -> (TestDb, Client, Client) {
    let db = TestDb::create().await;
    let (admin, service) = (db.superuser().await, db.connect_as("auth_service").await);
    (db, admin, service)
}

#[tokio::test]
async fn a_logged_in_user_founds_an_organization_and_goes_on_acting_for_the_former() {
    let (_db, admin, service) = start().await;
    let ours = Tenant::found(&admin, &service, "ours").await;
    let founded = "select outcome, organization_id from auth.create_organization('Second', 'second', 'What we do', 'https://second.example', 'request-1')";
    let row = &act_as(&service, &ours.member, founded, &[]).await.unwrap()[0];
    let (outcome, second): (&str, Uuid) = (row.get(0), row.get(1));
    assert_eq!(outcome, "created");
    assert_eq!(role_of(&admin, second, &ours.member).await.as_deref(), Some("ORGANIZATION_OWNER"));
    let trail: Vec<String> =
        values(&admin, "select action from auth.audit_log where correlation_id = 'request-1' order by id", &[]).await;
    assert_eq!(trail, ["organization_created", "user_role_created"]);

    let list = "select slug, role, is_active, description, website from auth.list_organizations()";
    let rows = act_as(&service, &ours.member, list, &[]).await.unwrap();
    let listed: Vec<(&str, &str, bool, Option<&str>)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(4))).collect();
    assert_eq!(
        listed,
        [
            ("ours", "ORGANIZATION_MEMBER", true, None),
            ("second", "ORGANIZATION_OWNER", false, Some("https://second.example"))
        ]
    );

    assert_eq!(outcome_of(&service, &ours.owner, CREATE, &[&"Third", &"second"]).await, "slug_taken");
    assert_eq!(outcome_of(&service, &ours.owner, CREATE, &[&"Third", &"admin"]).await, "slug_reserved");
    assert_eq!(refusal(service.query(CREATE, &[&"Third", &"third"]).await).code, "28000", "nobody founds nothing");
    assert_eq!(value::<i64>(&admin, "select count(*) from auth.organizations", &[]).await, 2);
}

#[tokio::test]
async fn reserved_words_are_refused_by_both_doors() {
    let (db, _admin, service) = start().await;
    let ada = try_sign_up(&service, "ada@example.org", None).await.unwrap();
    let before = db.row_counts().await;
    for slug in ["admin", "www", "well-known", "login", "users"] {
        assert_eq!(outcome_of(&service, &ada, CREATE, &[&"Name", &slug]).await, "slug_reserved", "{slug}");
        let signed_up = try_sign_up(&service, &format!("{slug}@example.org"), Some(("Name", slug))).await.unwrap();
        assert_eq!(signed_up.outcome, "slug_reserved", "{slug}");
    }
    assert_eq!(db.row_counts().await, before, "and nothing is left of it");
}

#[tokio::test]
async fn a_taken_slug_has_free_ones_like_it() {
    let (_db, admin, service) = start().await;
    let check = async |slug: &str| -> (bool, Vec<String>) {
        let row = service.query_one("select * from auth.check_slug($1)", &[&slug]).await.unwrap();
        (row.get(0), row.get(1))
    };
    let found = "insert into auth.organizations (slug, name) select $1, 'Name'";
    assert_eq!(check("acme").await, (true, vec![]));
    run(&admin, found, &[&"acme"]).await;
    assert_eq!(check("acme").await, (false, ["acme-team", "acme-hq", "acme-app"].map(String::from).to_vec()));
    for slug in ["acme-team", "acme-app", "acme-org", "acme-2"] {
        run(&admin, found, &[&slug]).await;
    }
    assert_eq!(check("acme").await.1, ["acme-hq", "acme-3", "acme-4"]);
    assert_eq!(
        check("admin").await,
        (false, ["admin-team", "admin-hq", "admin-app"].map(String::from).to_vec()),
        "reserved"
    );
    // Of the full length: cut to make room, without a hyphen at the seam.
    let long = format!("{}-{}", "a".repeat(44), "b".repeat(5));
    run(&admin, found, &[&long]).await;
    for suggestion in check(&long).await.1 {
        assert_eq!(check(&suggestion).await, (true, vec![]), "{suggestion}");
    }
    assert_eq!(check(&long).await.1[0], format!("{}-team", "a".repeat(44)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_those_who_take_a_slug_at_once_by_either_door_one_wins() {
    let (db, admin, service) = start().await;
    let racers = connections(&db, "auth_service", 8).await;
    let mut people = Vec::new();
    for n in 0..4 {
        people.push(try_sign_up(&service, &format!("ada-{n}@example.org"), None).await.unwrap());
    }
    for round in 0..20 {
        let slug = format!("slug-{round}");
        let outcomes = race(&racers, |n, racer| {
            let (slug, person) = (slug.clone(), people.get(n).cloned());
            async move {
                match person {
                    Some(person) => outcome_of(&racer, &person, CREATE, &[&"Name", &slug]).await,
                    None => {
                        let email = format!("new-{round}-{n}@example.org");
                        try_sign_up(&racer, &email, Some(("Name", &slug))).await.unwrap().outcome
                    }
                }
            }
        })
        .await;
        let won = outcomes.iter().filter(|outcome| ["created", "signed_up"].contains(&outcome.as_str())).count();
        let lost = outcomes.iter().filter(|outcome| *outcome == "slug_taken").count();
        assert_eq!((won, lost), (1, 7), "round {round}: {outcomes:?}");
    }
    assert_eq!(value::<i64>(&admin, "select count(*) from auth.organizations", &[]).await, 20);
}

/// Somebody who belongs to two tenants.
async fn in_both(admin: &Client, service: &Client) -> (Outcome, Tenant, Tenant) {
    let ours = Tenant::found(admin, service, "ours").await;
    let theirs = Tenant::found(admin, service, "theirs").await;
    let insert =
        "insert into auth.organization_members (organization_id, user_id, role) values ($1, $2, 'ORGANIZATION_ADMIN')";
    run(admin, insert, &[&theirs.id, &ours.member.user_id]).await;
    (ours.member.clone(), ours, theirs)
}

#[tokio::test]
async fn a_session_is_switched_and_everything_of_it_acts_for_the_new_organization_at_once() {
    let (_db, admin, service) = start().await;
    let (ada, ours, theirs) = in_both(&admin, &service).await;
    let acting =
        "select auth.current_organization_id(), auth.current_roles(), (select array_agg(slug) from auth.organizations)";
    let now = async |who: &Outcome| -> (Option<Uuid>, Vec<String>, Option<Vec<String>>) {
        let row = &act_as(&service, who, acting, &[]).await.unwrap()[0];
        (row.get(0), row.get(1), row.get(2))
    };
    let of = |tenant: &Tenant, role: &str| (Some(tenant.id), vec![role.to_owned()], Some(vec![tenant.slug.clone()]));
    assert_eq!(now(&ada).await, of(&ours, "ORGANIZATION_MEMBER"));

    let switched = "select outcome, organization_id, jti, ticket is null, issued_at, auth_time, generation from auth.switch_organization($1, correlation_id => 'request-1')";
    let row = &act_as(&service, &ada, switched, &[&theirs.id]).await.unwrap()[0];
    let (outcome, organization, no_ticket): (&str, Uuid, bool) = (row.get(0), row.get(1), row.get(3));
    assert_eq!((outcome, organization, no_ticket), ("switched", theirs.id, true), "the refresh token stays as it is");
    assert!(row.get::<_, SystemTime>(4).elapsed().unwrap().as_secs() < 60);
    assert_eq!(row.get::<_, Option<SystemTime>>(5), ada.auth_time, "and so does the authentication");
    // The token of before, and the new one.
    let new = Outcome { jti: row.get(2), ..ada.clone() };
    for token in [&ada, &new] {
        assert_eq!(now(token).await, of(&theirs, "ORGANIZATION_ADMIN"));
    }
    let next = rotate(&service, &ada.clone().token()).await;
    assert_eq!((next.outcome.as_str(), next.organization_id), ("rotated", Some(theirs.id)));

    assert_eq!(outcome_of(&service, &ada, SWITCH, &[&None::<Uuid>]).await, "switched");
    assert_eq!(now(&ada).await, (None, vec![], None), "for none");
    assert_eq!(outcome_of(&service, &ada, SWITCH, &[&ours.id]).await, "switched");
    assert_eq!(outcome_of(&service, &ada, SWITCH, &[&ours.id]).await, "switched", "again changes nothing");
    let trail: Vec<String> = values(
        &admin,
        "select details::text from auth.audit_log where action = 'session_organization_switched' order by id",
        &[],
    )
    .await;
    let step = |from: &str, to: &str| format!(r#"{{"to": {to}, "from": {from}}}"#);
    let (o, t) = (format!("\"{}\"", ours.id), format!("\"{}\"", theirs.id));
    assert_eq!(trail, [step(&o, &t), step(&t, "null"), step("null", &o)]);
}

#[tokio::test]
async fn a_session_is_not_switched_to_where_its_user_does_not_belong_nor_after_its_end() {
    let (_db, admin, service) = start().await;
    let (ada, ours, theirs) = in_both(&admin, &service).await;
    let before = session_row(&admin, ours.owner.session_id.unwrap()).await;
    for organization in [theirs.id, Uuid::from_u128(7)] {
        assert_eq!(outcome_of(&service, &ours.owner, SWITCH, &[&organization]).await, "not_found");
    }
    assert_eq!(session_row(&admin, ours.owner.session_id.unwrap()).await, before);

    // In one transaction: the session ends after it was assumed.
    service.batch_execute("begin").await.unwrap();
    assume(&service, &ada).await;
    assert!(value::<bool>(&service, "select auth.revoke_session($1)", &[&ada.session_id]).await);
    assert_eq!(value::<String>(&service, SWITCH, &[&theirs.id]).await, "ended");
    let leave = "select outcome from auth.leave_organization($1)";
    assert_eq!(value::<String>(&service, leave, &[&ours.id]).await, "ended");
    service.batch_execute("commit").await.unwrap();
    assert_eq!(role_of(&admin, ours.id, &ada).await.as_deref(), Some("ORGANIZATION_MEMBER"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_acts_for_an_organization_that_its_user_was_removed_from_whatever_races() {
    let (db, admin, service) = start().await;
    let racers = connections(&db, "auth_service", 5).await;
    for round in 0..40 {
        let tenant = Tenant::found(&admin, &service, &format!("round-{round}")).await;
        let (email, id) = (format!("member@round-{round}.example"), tenant.id);
        let nowhere = "update auth.sessions set organization_id = null where id = $1";
        run(&admin, nowhere, &[&tenant.member.session_id]).await;
        let outcomes = race(&racers, |n, racer| {
            let (owner, member, email) = (tenant.owner.clone(), tenant.member.clone(), email.clone());
            async move {
                match n {
                    0 => {
                        outcome_of(
                            &racer,
                            &owner,
                            "select outcome from auth.remove_member($1, $2)",
                            &[&id, &member.user_id],
                        )
                        .await
                    }
                    1 => outcome_of(&racer, &member, SWITCH, &[&id]).await,
                    2 => log_in(&racer, &email, PASSWORD).await.outcome,
                    3 => rotate(&racer, &member.token()).await.outcome,
                    _ => {
                        let change = "select outcome from auth.change_member_role($1, $2, 'ORGANIZATION_ADMIN')";
                        outcome_of(&racer, &owner, change, &[&id, &member.user_id]).await
                    }
                }
            }
        })
        .await;
        assert_eq!(outcomes[0], "removed", "round {round}: {outcomes:?}");
        let left = "select count(*) from auth.active_sessions where organization_id = $1 and user_id = $2";
        assert_eq!(value::<i64>(&admin, left, &[&id, &tenant.member.user_id]).await, 0, "round {round}: {outcomes:?}");
        let ended = revoked_reason(&admin, tenant.member.session_id.unwrap()).await;
        assert_eq!(ended.is_some(), outcomes[1] == "switched", "round {round}: {outcomes:?}");
    }
}
