//! Two tenants, each with owner, administrator and member, and an attacker who runs any SQL as the service's role with
//! each of their sessions in turn: nothing of the other tenant is seen, and nothing of it changes.

use std::collections::BTreeMap;

use auth_sessions_tests::sql::{run, sqlstate, value, values};
use auth_sessions_tests::tenants::{Tenant, TwoTenants, act_as, assume, names, outcome_of};
use auth_sessions_tests::tokens::{Outcome, random_bytes, sha256};
use tokio_postgres::Client;
use uuid::Uuid;

async fn scene() -> TwoTenants {
    let scene = TwoTenants::found().await;
    // An open invitation of each.
    for tenant in [&scene.ours, &scene.theirs] {
        let invite = "select outcome from auth.invite_member($1, $2, 'ORGANIZATION_MEMBER')";
        let email = format!("guest@{}.example", tenant.slug);
        assert_eq!(outcome_of(&scene.service, &tenant.owner, invite, &[&tenant.id, &email]).await, "invited");
    }
    scene
}

/// A digest of the rows of each table, as text, of a tenant.
async fn rows_of(admin: &Client, names: &[String]) -> BTreeMap<String, String> {
    let tables: Vec<String> = values(
        admin,
        "select oid::regclass::text from pg_class where relnamespace = 'auth'::regnamespace and relkind in ('r', 'p')
            and not relispartition and relname not in ('attempts', 'instance')",
        &[],
    )
    .await;
    let mut digests = BTreeMap::new();
    for table in tables {
        let digest = format!(
            "select coalesce(string_agg(t::text, '|' order by t::text), '') from {table} t
              where exists (select from unnest($1::text[]) n (name) where t::text like '%' || name || '%')"
        );
        digests.insert(table.clone(), value(admin, &digest, &[&names]).await);
    }
    digests
}

#[tokio::test]
async fn whatever_can_be_read_shows_one_tenant_only() {
    let scene = scene().await;
    let readable: Vec<String> = values(
        &scene.admin,
        "select c.oid::regclass::text from pg_class c where c.relnamespace = 'auth'::regnamespace
            and c.relkind in ('r', 'p', 'v') and has_any_column_privilege('auth_api', c.oid, 'select') order by 1",
        &[],
    )
    .await;
    assert!(readable.len() >= 9, "{readable:?}");
    for (mine, other) in [(&scene.ours, &scene.theirs), (&scene.theirs, &scene.ours)] {
        let foreign = names(&scene.admin, other.id).await;
        for person in ["owner", "admin", "member"] {
            let mut seen = 0;
            for relation in &readable {
                let columns: Vec<String> = values(
                    &scene.admin,
                    "select quote_ident(attname) from pg_attribute where attrelid = $1::text::regclass and attnum > 0
                        and not attisdropped and has_column_privilege('auth_api', attrelid, attnum, 'select')",
                    &[relation],
                )
                .await;
                let read = format!("select row({})::text from {relation}", columns.join(", "));
                let rows = act_as(&scene.service, mine.person(person), &read, &[]).await.unwrap();
                for row in rows {
                    seen += 1;
                    let text: String = row.get(0);
                    for name in &foreign {
                        assert!(!text.contains(name.as_str()), "{person} reads {text} in {relation}");
                    }
                }
            }
            assert!(seen >= 8, "{person} sees the own: {seen}");
        }
    }
}

/// Every function that the service may call, with all ids of the other tenant, in every place that takes one.
#[tokio::test]
async fn whatever_can_be_called_shows_and_changes_nothing_of_another_tenant() {
    let scene = scene().await;
    let (mine, other) = (&scene.ours, &scene.theirs);
    let foreign = names(&scene.admin, other.id).await;
    let before = rows_of(&scene.admin, &foreign).await;
    let ids: Vec<Uuid> = foreign.iter().filter_map(|name| name.parse().ok()).collect();
    assert!(ids.len() >= 8);
    let functions = scene
        .admin
        .query(
            "select p.oid::regproc::text, array(select format_type(t, null) from unnest(p.proargtypes) t), p.pronargdefaults::int
               from pg_proc p
              where p.pronamespace = 'auth'::regnamespace and has_function_privilege('auth_api', p.oid, 'execute')
                and p.proargtypes::oid[] && array['uuid'::regtype::oid]",
            &[],
        )
        .await
        .unwrap();
    assert!(functions.len() >= 12);
    let mut worked = 0;
    for person in ["owner", "admin", "member"] {
        for function in &functions {
            let (name, kinds): (String, Vec<String>) = (function.get(0), function.get(1));
            for target in &ids {
                for organization in [mine.id, other.id] {
                    // The first uuid is an organization in half of the calls, the other ids everywhere.
                    let mut first = true;
                    let argument = |kind: &String| match kind.as_str() {
                        "uuid"
                            if first
                                && name.contains("organization")
                                    | name.contains("member")
                                    | name.contains("invitation") =>
                        {
                            first = false;
                            format!("'{organization}'::uuid")
                        }
                        "uuid" => format!("'{target}'::uuid"),
                        "integer" => "1".to_owned(),
                        "text" => "'ORGANIZATION_MEMBER'".to_owned(),
                        "bytea" => "sha256('')".to_owned(),
                        kind => format!("null::{kind}"),
                    };
                    let arguments: Vec<String> = kinds.iter().map(argument).collect();
                    scene.service.batch_execute("begin").await.unwrap();
                    assume(&scene.service, mine.person(person)).await;
                    let call = format!("select f::text from {name}({}) f", arguments.join(", "));
                    if let Ok(rows) = scene.service.query(&call, &[]).await {
                        worked += 1;
                        for row in rows {
                            let text = row.get::<_, Option<String>>(0).unwrap_or_default();
                            // Answering with the very id that was asked for tells nothing.
                            for name in foreign
                                .iter()
                                .filter(|name| **name != target.to_string() && **name != organization.to_string())
                            {
                                assert!(!text.contains(name.as_str()), "{person}: {call}: {text}");
                            }
                        }
                        scene.service.batch_execute("commit").await.unwrap();
                    } else {
                        scene.service.batch_execute("rollback").await.unwrap();
                    }
                    // The caller may have left the own organization, or ended the own session, by it.
                    mend(&scene.admin, mine).await;
                }
            }
        }
    }
    assert!(worked > 200, "{worked} calls worked at all");
    assert_eq!(rows_of(&scene.admin, &foreign).await, before);
    for person in ["owner", "admin", "member"] {
        assume_and_end(&scene.service, other.person(person)).await;
    }
}

async fn assume_and_end(client: &Client, who: &Outcome) {
    client.batch_execute("begin").await.unwrap();
    assume(client, who).await;
    client.batch_execute("rollback").await.unwrap();
}

/// Everybody back where they were.
async fn mend(admin: &Client, tenant: &Tenant) {
    for (person, role) in auth_sessions_tests::tenants::ROLES {
        let who = tenant.person(person);
        run(
            admin,
            "insert into auth.organization_members (organization_id, user_id, role) values ($1, $2, $3)
             on conflict (organization_id, user_id) do update set role = excluded.role
               where organization_members.role <> excluded.role",
            &[&tenant.id, &who.user_id, &role],
        )
        .await;
        run(
            admin,
            "update auth.sessions set organization_id = $1, revoked_at = null, revoked_reason = null
              where id = $2 and (revoked_at is not null or organization_id is distinct from $1)",
            &[&tenant.id, &who.session_id],
        )
        .await;
    }
}

#[tokio::test]
async fn no_table_takes_a_write_that_would_make_the_attacker_a_member() {
    let scene = scene().await;
    let foreign = names(&scene.admin, scene.theirs.id).await;
    let before = rows_of(&scene.admin, &foreign).await;
    let (me, id) = (scene.ours.owner.user_id.unwrap(), scene.theirs.id);
    scene.service.batch_execute("begin").await.unwrap();
    assume(&scene.service, &scene.ours.owner).await;
    for statement in [
        format!("insert into auth.organization_members values ('{id}', '{me}', 'ORGANIZATION_OWNER')"),
        format!("update auth.organization_members set organization_id = '{id}'"),
        "update auth.organization_members set role = 'ORGANIZATION_OWNER'".to_owned(),
        "delete from auth.organization_members".to_owned(),
        format!("update auth.sessions set organization_id = '{id}'"),
        format!("update auth.organizations set name = 'mine' where id = '{id}'"),
        format!("delete from auth.organizations where id = '{id}'"),
        "insert into auth.organization_invitations (organization_id) values (null)".to_owned(),
        "update auth.organization_invitations set email = 'me@example.org'".to_owned(),
        "select from auth.organization_invitations".to_owned(),
        "select from auth.organization_members for update".to_owned(),
        format!("select auth.found_organization('{me}', 'mine', 'Mine', null, null, null)"),
        format!("select auth.set_identity('{me}', '{id}', gen_random_uuid())"),
        format!("select auth.end_membership('{id}', '{me}', 'ORGANIZATION_OWNER', 'x', null, null, null)"),
        format!("select auth.role_of('{id}', '{me}')"),
        "select auth.link_secret()".to_owned(),
    ] {
        scene.service.batch_execute("savepoint attempt").await.unwrap();
        assert_eq!(sqlstate(&scene.service, &statement).await, "42501", "{statement}");
        scene.service.batch_execute("rollback to savepoint attempt").await.unwrap();
    }
    scene.service.batch_execute("commit").await.unwrap();
    assert_eq!(rows_of(&scene.admin, &foreign).await, before);
}

#[tokio::test]
async fn guessing_invitations_joins_nothing() {
    let scene = scene().await;
    let accept = "select outcome from auth.accept_invitation($1)";
    let verifier: Vec<u8> = value(
        &scene.admin,
        "select token_verifier from auth.organization_invitations where organization_id = $1",
        &[&scene.theirs.id],
    )
    .await;
    // The verifier, as a stolen dump has it, proves nothing.
    for proof in [random_bytes(32), verifier.clone(), sha256(&verifier)] {
        assert_eq!(outcome_of(&scene.service, &scene.ours.owner, accept, &[&proof]).await, "invitation_not_found");
    }
}

#[tokio::test]
async fn who_belongs_to_both_sees_the_active_one() {
    let scene = scene().await;
    let (ada, id) = (&scene.ours.owner, scene.theirs.id);
    let insert =
        "insert into auth.organization_members (organization_id, user_id, role) values ($1, $2, 'ORGANIZATION_OWNER')";
    run(&scene.admin, insert, &[&id, &ada.user_id]).await;
    let organizations = "select array_agg(slug) from auth.organizations";
    let members = "select array_agg(distinct organization_id) from auth.organization_members where user_id <> auth.current_user_id()";
    let sees = async || {
        let slugs = act_as(&scene.service, ada, organizations, &[]).await.unwrap()[0].get::<_, Option<Vec<String>>>(0);
        let others = act_as(&scene.service, ada, members, &[]).await.unwrap()[0].get::<_, Option<Vec<Uuid>>>(0);
        (slugs.unwrap_or_default(), others.unwrap_or_default())
    };
    assert_eq!(sees().await, (vec!["ours".to_owned()], vec![scene.ours.id]));
    let switch = "select outcome from auth.switch_organization($1)";
    assert_eq!(outcome_of(&scene.service, ada, switch, &[&id]).await, "switched");
    assert_eq!(sees().await, (vec!["theirs".to_owned()], vec![id]));
    assert_eq!(outcome_of(&scene.service, ada, switch, &[&None::<Uuid>]).await, "switched");
    assert_eq!(sees().await, (vec![], vec![]));
    // The own memberships are the own, wherever.
    let own = "select count(*) from auth.organization_members where user_id = auth.current_user_id()";
    assert_eq!(act_as(&scene.service, ada, own, &[]).await.unwrap()[0].get::<_, i64>(0), 2);
}

#[tokio::test]
async fn who_is_removed_in_the_middle_of_a_transaction_sees_nothing_more_of_the_organization() {
    let scene = scene().await;
    scene.service.batch_execute("begin").await.unwrap();
    assume(&scene.service, &scene.ours.member).await;
    let sees = "select (select count(*) from auth.organizations) + (select count(*) from auth.organization_members)";
    assert_eq!(value::<i64>(&scene.service, sees, &[]).await, 1 + 3);
    run(&scene.admin, "delete from auth.organization_members where user_id = $1", &[&scene.ours.member.user_id]).await;
    assert_eq!(value::<i64>(&scene.service, sees, &[]).await, 0);
    let list = "select outcome from auth.list_members($1)";
    assert_eq!(value::<String>(&scene.service, list, &[&scene.ours.id]).await, "not_found");
    scene.service.batch_execute("commit").await.unwrap();
}
