//! The scene of the SQL fuzzer: two tenants full of victims, a member of one of them who attacks, and what must never
//! be told or changed.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::calls::Person;
use super::grammar::{Function, Knowledge, Relation};
use crate::TestDb;
use crate::sql::{run, values};
use crate::tenants::{Tenant, join};
use crate::tokens::{Outcome, random_bytes, rotate, rotate_times};

/// A database to be copied, and what is known of it.
pub struct World {
    /// Nobody is connected to it.
    pub db: TestDb,
    /// Who attacks.
    pub bob: Outcome,
    /// The proof of Bob's personal access token.
    pub bobs_token: (Vec<u8>, Vec<u8>),
    /// What the attacker knows.
    pub know: Knowledge,
    /// Values of others that nobody told the attacker: none may ever come back.
    pub secrets: BTreeSet<String>,
    /// Ids of users, sessions and organizations that are no business of Bob's.
    pub victims: Vec<String>,
    /// Bob's id, by which the rows that are his are known.
    pub bob_id: String,
}

/// Fills what victims have: every table, with values that are nobody else's.
const FILL: &str = "
  update auth.users set name = 'name-' || gen_random_uuid();
  update auth.organizations set description = 'secret-' || gen_random_uuid(), website = 'https://' || gen_random_uuid();
  update auth.sessions set device_name = 'device-' || gen_random_uuid(), user_agent = 'agent-' || gen_random_uuid(),
         device_hash = sha256(gen_random_uuid()::text::bytea), last_ip_cidr = '198.51.100.0/24';
  insert into auth.identities (provider, subject, user_id, email)
    select 'https://' || gen_random_uuid(), gen_random_uuid(), id, email from auth.users;
  insert into auth.personal_access_tokens (user_id, organization_id, name, lookup_id, token_verifier, scopes, expires_at)
    select user_id, organization_id, 'token-' || gen_random_uuid(), substr(sha256(id::text::bytea), 1, 16),
           sha256(gen_random_uuid()::text::bytea), '{profile:read,sessions:read}', now() + interval '1 day' from auth.sessions;
  insert into auth.organization_invitations (organization_id, email, role, token_verifier, created_at, expires_at)
    select id, gen_random_uuid() || '@guests.example', 'ORGANIZATION_ADMIN', sha256(gen_random_uuid()::text::bytea), now(),
           now() + interval '1 day' from auth.organizations;
  insert into auth.adopted_tokens (token_verifier, session_id, is_current)
    select sha256(gen_random_uuid()::text::bytea), id, true from auth.sessions;
  insert into auth.accepted_id_tokens (digest, expires_at) values (sha256(gen_random_uuid()::text::bytea), now() + interval '1 day');
  insert into auth.audit_log (action, severity, success, user_id, organization_id, session_id, correlation_id, user_agent, details)
    select 'x', 'info', true, user_id, organization_id, id, 'correlation-' || gen_random_uuid(), 'agent-' || gen_random_uuid(),
           jsonb_build_object('detail', 'detail-' || gen_random_uuid()) from auth.sessions;
  insert into auth.clients (client_id, name, secret_verifier, created_by)
    values ('client-' || gen_random_uuid(), 'program-' || gen_random_uuid(), sha256(gen_random_uuid()::text::bytea), 'x')";

impl World {
    /// Makes one.
    pub async fn create() -> Self {
        let db = TestDb::create().await;
        // Whatever a statement makes of itself, it ends; a new connection, or one that is reset, has this too.
        for (setting, value) in [("statement_timeout", "3s"), ("lock_timeout", "1s"), ("work_mem", "1MB")] {
            db.set(setting, value).await;
        }
        let (admin, service) = (db.superuser().await, db.connect_as("auth_service").await);
        run(&admin, "select auth.maintain_audit_partitions()", &[]).await;
        let adas = Tenant::found(&admin, &service, "adas-company").await;
        let shared = Tenant::found(&admin, &service, "shared-company").await;
        let bob = join(&admin, &service, shared.id, "bob@example.org", "ORGANIZATION_MEMBER").await;
        let bob_id = bob.user_id.expect("an id").to_string();
        admin.batch_execute(FILL).await.expect("filling");

        // A replay, and what it leaves; a session that was refreshed; one's own personal access token.
        let replayed = rotate_times(&service, adas.admin.clone().token(), 3).await;
        assert_eq!(rotate(&service, &replayed[0]).await.outcome, "replayed");
        let refreshed = rotate_times(&service, adas.owner.clone().token(), 2).await;
        let bobs_token = (random_bytes(16), random_bytes(32));
        let token =
            "update auth.personal_access_tokens set lookup_id = $1, token_verifier = sha256($2) where user_id = $3";
        run(&admin, token, &[&bobs_token.0, &bobs_token.1, &bob.user_id]).await;

        let victims: Vec<String> = values(
            &admin,
            "select id::text from auth.users where id <> $1 union select id::text from auth.sessions where user_id <> $1
             union select $2::uuid::text",
            &[&bob.user_id, &adas.id],
        )
        .await;
        let mut know = knowledge(&admin).await;
        know.uuids = victims.clone();
        let mine = [bob.user_id, bob.session_id, bob.jti, bob.organization_id];
        // One's own more often than anybody else's, and one that nothing has.
        for _ in 0..3 {
            know.uuids.extend(mine.iter().flatten().map(Uuid::to_string));
        }
        know.uuids.push("00000000-0000-4000-8000-000000000000".into());
        know.texts =
            values(&admin, "select email from auth.users union select slug from auth.organizations", &[]).await;
        for person in people(&admin).await {
            let is_own = person.get("user_id") == Some(&bob_id);
            if is_own { know.own.push(person) } else { know.victims.push(person) }
        }
        // Two whose tickets stand in a log.
        for (token, people) in [(&refreshed[1], &mut know.victims), (&bob.clone().token(), &mut know.own)] {
            let session_id = token.session_id.to_string();
            for person in people.iter_mut().filter(|person| person["session_id"] == session_id) {
                person.insert("ticket".into(), format!("\\x{}", hexadecimal(&token.ticket)));
                person.insert("generation".into(), token.generation.to_string());
            }
        }
        let words = [
            "auth_owner",
            "postgres",
            "ORGANIZATION_OWNER",
            "password",
            "logged_out",
            "profile:read",
            "off",
            "m=65536,t=3,p=1",
        ];
        know.texts.extend(words.map(str::to_owned));
        let token = bob.clone().token();
        know.bytes = [
            random_bytes(16),
            random_bytes(32),
            token.ticket,
            token.secret.proof(),
            token.secret.verifier(),
            // Another's ticket, as it stands in a log, without the secret that it belongs to.
            refreshed[1].ticket.clone(),
            bobs_token.0.clone(),
            bobs_token.1.clone(),
        ]
        .map(|bytes| hexadecimal(&bytes))
        .to_vec();
        know.roles = [
            "auth_owner",
            "auth_admin",
            "auth_monitor",
            "auth_mailer",
            "auth_federation",
            "postgres",
            "auth_operator",
            "public",
        ]
        .map(str::to_owned)
        .to_vec();

        let mut world = Self { db, bob, bobs_token, know, secrets: BTreeSet::new(), victims, bob_id };
        world.secrets = world.untold(&admin, shared.id).await;
        assert!(world.secrets.len() > 200, "{}", world.secrets.len());
        world
    }

    /// Every text, id, digest and time in every table, but for those that Bob may see or was told.
    async fn untold(&self, admin: &Client, shared: Uuid) -> BTreeSet<String> {
        let (mut others, mut own) = (BTreeSet::new(), BTreeSet::new());
        let columns = "select c.relname::text, quote_ident(a.attname) from pg_class c join pg_attribute a on a.attrelid = c.oid
                        where c.relnamespace = 'auth'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
                          and a.attnum > 0 and not a.attisdropped
                          and a.atttypid in ('text'::regtype, 'uuid'::regtype, 'bytea'::regtype, 'timestamptz'::regtype, 'jsonb'::regtype)";
        for row in admin.query(columns, &[]).await.expect("columns") {
            let (table, column): (String, String) = (row.get(0), row.get(1));
            // begin_login tells whoever asks for an address what to hash its password with.
            if table == "users" && ["password_salt", "password_params"].contains(&column.as_str()) {
                continue;
            }
            let visible = match (table.as_str(), column.as_str()) {
                // Bob's fellow members, by name and address (auth.list_members).
                ("users", "name" | "email" | "id") => {
                    "id in (select user_id from auth.organization_members where organization_id = $2)"
                }
                ("users", _) => "id = $1",
                ("organizations", _) => "id = $2",
                ("organization_members", _) => "organization_id = $2",
                ("sessions" | "audit_log" | "personal_access_tokens", _) => "user_id = $1",
                _ => "false",
            };
            // Of a document its parts.
            let parts = format!(
                "select t.{column}::text as said, {visible} as visible from auth.{table} t
                   where t.{column} is not null and ($1::uuid, $2::uuid) is not null"
            );
            for row in admin.query(&parts, &[&self.bob.user_id, &shared]).await.expect("values") {
                let said: String = row.get(0);
                let visible: Option<bool> = row.get(1);
                let said = said.strip_prefix("\\x").unwrap_or(&said).to_owned();
                if visible == Some(true) {
                    own.insert(said)
                } else {
                    others.insert(said)
                };
            }
        }
        let people = self.know.victims.iter().chain(&self.know.own).flat_map(|person| person.values());
        let lists = self.know.uuids.iter().chain(&self.know.texts).chain(&self.know.bytes);
        let told: BTreeSet<&String> = lists.chain(people).collect();
        // Words (a role, an action) say nothing: they stand in the definitions of the views, too.
        let is_word = |said: &str| said.len() < 20 || said.chars().all(|c| c.is_ascii_alphabetic() || c == '_');
        let untold = |said: &String| !is_word(said) && !own.contains(said) && !told.contains(said);
        others.into_iter().filter(untold).collect()
    }

    /// Every row but Bob's, with its table: what must be there afterwards as it was.
    pub async fn rows(&self, admin: &Client) -> BTreeMap<String, BTreeSet<String>> {
        let tables: Vec<String> = values(
            admin,
            "select relname::text from pg_class where relnamespace = 'auth'::regnamespace and relkind in ('r', 'p')
                and not relispartition and relname <> 'attempts'",
            &[],
        )
        .await;
        let mut rows = BTreeMap::new();
        for table in tables {
            let said = format!("select t::text from auth.{table} t");
            rows.insert(table, values::<String>(admin, &said, &[]).await.into_iter().collect());
        }
        rows
    }

    /// What has changed that was not Bob's to change.
    pub fn changes(
        &self,
        before: &BTreeMap<String, BTreeSet<String>>,
        after: &BTreeMap<String, BTreeSet<String>>,
    ) -> Vec<String> {
        let mut changes = Vec::new();
        for (table, before) in before {
            let after = &after[table];
            for gone in before.difference(after) {
                // Anybody may have a link mailed to an address; the one before ends by it (DESIGN §6: "trip a limit").
                // Maintenance, which the service may call, composes what waits to be told into a webhook.
                let is_allowed = ["one_time_tokens", "alert_events"].contains(&table.as_str())
                    || gone.contains(&self.bob_id)
                    || gone.contains(&*self.bob_session());
                if !is_allowed {
                    changes.push(format!("{table} lost {gone}"));
                }
            }
            for new in after.difference(before) {
                let is_allowed = match table.as_str() {
                    "one_time_tokens" | "mail_outbox" => {
                        ["reset_password", "verify_email"].iter().any(|of| new.contains(of))
                    }
                    "alert_outbox" => true,
                    "alert_events" => {
                        ["failed_logins", "lock_outs", "suspicious_activity"].iter().any(|of| new.contains(of))
                    }
                    // What others are told of: a failure that was counted, a link that was asked for.
                    "audit_log" => [
                        "user_login_failed",
                        "user_account_locked",
                        "password_reset_requested",
                        "verification_email_sent",
                        "rate_limit_exceeded",
                        "suspicious_activity_detected",
                    ]
                    .iter()
                    .any(|action| new.contains(action)),
                    _ => false,
                };
                // Someone new in Bob's organization, or invited to it: a member may not.
                let shared = self.bob.organization_id.expect("an id").to_string();
                let is_of_shared = new.contains(&shared)
                    && match table.as_str() {
                        "organization_invitations" => true,
                        "organization_members" => !new.contains(&self.bob_id),
                        _ => false,
                    };
                if is_of_shared || !is_allowed && self.victims.iter().any(|victim| new.contains(victim)) {
                    changes.push(format!("{table} has {new}"));
                }
            }
        }
        changes
    }

    fn bob_session(&self) -> String {
        self.bob.session_id.expect("an id").to_string()
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Of each session what a log or a colleague may have told: ids, addresses, names of organizations.
async fn people(admin: &Client) -> Vec<Person> {
    let people = "select s.id::text as session_id, u.id::text as user_id, u.email, o.id::text as organization_id, o.slug,
                         (select t.id::text from auth.personal_access_tokens t where t.user_id = u.id limit 1) as token_id,
                         (select i.id::text from auth.organization_invitations i where i.organization_id = o.id limit 1) as invitation_id
                    from auth.sessions s join auth.users u on u.id = s.user_id
                    left join auth.organizations o on o.id = s.organization_id
                   order by u.email, s.created_at";
    let rows = admin.query(people, &[]).await.expect("people");
    let person = |row: &Row| {
        let columns = row.columns().iter().enumerate();
        columns.filter_map(|(n, column)| Some((column.name().to_owned(), row.get::<_, Option<String>>(n)?))).collect()
    };
    rows.iter().map(person).collect()
}

/// The catalogue of schema `auth`.
async fn knowledge(admin: &Client) -> Knowledge {
    let mut know = Knowledge::default();
    // Everything there is; and, twice as often, what of it the service may read at all.
    let relations = "select c.oid::regclass::text, array_agg(quote_ident(a.attname) order by a.attnum), array_agg(format_type(a.atttypid, null) order by a.attnum)
                       from pg_class c join pg_attribute a on a.attrelid = c.oid and not a.attisdropped cross join generate_series(0, 2) n
                      where c.relnamespace = 'auth'::regnamespace and c.relkind in ('r', 'p', 'v') and a.attname not in ('cmin', 'cmax', 'xmax')
                        and (n = 0 or has_column_privilege('auth_api', c.oid, a.attnum, 'select'))
                      group by c.oid, n order by 1, n";
    for row in admin.query(relations, &[]).await.expect("relations") {
        let (names, types): (Vec<String>, Vec<String>) = (row.get(1), row.get(2));
        know.relations.push(Relation { name: row.get(0), columns: names.into_iter().zip(types).collect() });
    }
    let functions = "select p.oid::regproc::text, array(select format_type(t, null) from unnest(p.proargtypes) with ordinality a (t, n) order by n), p.pronargdefaults::int,
                            array(select coalesce(name, '') from unnest(p.proargnames, p.proargmodes) with ordinality a (name, mode, n)
                                   where mode is null or mode in ('i', 'b', 'v') order by n),
                            has_function_privilege('auth_api', p.oid, 'execute')
                       from pg_proc p where p.pronamespace = 'auth'::regnamespace and p.prorettype <> 'trigger'::regtype order by p.oid::regprocedure::text";
    for row in admin.query(functions, &[]).await.expect("functions") {
        let (types, names): (Vec<String>, Vec<String>) = (row.get(1), row.get(3));
        let names = names.into_iter().chain(std::iter::repeat(String::new()));
        know.functions.push(Function {
            name: row.get(0),
            arguments: names.zip(types).collect(),
            defaults: row.get::<_, i32>(2) as usize,
            allowed: row.get(4),
        });
    }
    know
}
