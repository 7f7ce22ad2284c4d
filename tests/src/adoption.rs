//! Databases of another system, taken over: the worked examples of `sql/adopt/examples/`, the commands, and what is the
//! same before and after.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tokio::process::{Child, Command};
use tokio_postgres::Client;

use crate::TestDb;
use crate::cluster::env_path;
use crate::server::{PEPPER, auth_api, key};
use crate::sql::{value, values};

/// The password of every user of the worked examples that has one.
pub const OLD_PASSWORD: &str = "correct horse battery staple";

/// A file of a worked example.
pub fn example(file: &str) -> PathBuf {
    env_path("AUTH_TEST_ROOT").join("sql/adopt/examples").join(file)
}

/// Makes the old side of a worked example in a database.
pub async fn load_example(admin: &Client, name: &str) {
    let file = example(&format!("{name}.sql"));
    let sql = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    admin.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
}

/// What a command said, and whether it worked.
#[derive(Debug)]
pub struct Said {
    /// Its results.
    pub out: String,
    /// Its progress, and what was wrong.
    pub err: String,
    /// Exit status 0.
    pub worked: bool,
}

impl Said {
    fn read(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        Self { out: text(&output.stdout), err: text(&output.stderr), worked: output.status.success() }
    }

    /// Itself, when it worked.
    #[track_caller]
    pub fn expect(self) -> Self {
        assert!(self.worked, "{self:?}");
        self
    }

    /// What was wrong, when it did not work.
    #[track_caller]
    pub fn expect_refusal(self) -> String {
        assert!(!self.worked, "{self:?}");
        self.err
    }
}

/// `auth-api adopt MAPPING …` to its end.
pub async fn adopt(db: &TestDb, mapping: &Path, arguments: &[&str]) -> Said {
    let mapping = mapping.to_str().expect("UTF-8");
    command(db, &[&["adopt", mapping], arguments].concat()).await
}

/// `auth-api rollback …` to its end.
pub async fn rollback(db: &TestDb, arguments: &[&str]) -> Said {
    command(db, &[&["rollback"], arguments].concat()).await
}

async fn command(db: &TestDb, arguments: &[&str]) -> Said {
    let url = db.url("postgres");
    let settings = [("ADMIN_DATABASE_URL", url.as_str()), ("PASSWORD_PEPPERS", &key(&PEPPER))];
    Said::read(&auth_api(arguments, &settings).await)
}

/// Starts a command and leaves it running; killed when dropped.
pub fn start(db: &TestDb, arguments: &[&str]) -> Child {
    Command::new(env_path("AUTH_TEST_API"))
        .args(arguments)
        .env_clear()
        .env("ADMIN_DATABASE_URL", db.url("postgres"))
        .env("PASSWORD_PEPPERS", key(&PEPPER))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("auth-api")
}

/// All there is in a database, one line a fact: the same before and after, when nothing was changed.
pub async fn everything(admin: &Client) -> Vec<String> {
    [catalogue(admin).await, rows(admin).await].concat()
}

/// What there is and whose it is: schemas, relations with their files, columns, rights,
/// constraints, indexes, triggers, functions, policies, comments.
async fn catalogue(admin: &Client) -> Vec<String> {
    let facts = "
      with namespace as (select * from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'),
           relation as (select c.*, n.nspname from pg_class c join namespace n on n.oid = c.relnamespace)
      select format('schema %s %s %s', nspname, nspowner::regrole, nspacl) from namespace
      union all select format('%s %s.%s file %s owner %s rls %s %s acl %s options %s', relkind, nspname, relname, relfilenode, relowner::regrole,
                              relrowsecurity, relforcerowsecurity, relacl, reloptions) from relation
      union all select format('column %s.%s.%s %s %s %s %s default %s acl %s', nspname, relname, attnum, attname,
                              format_type(atttypid, atttypmod), attnotnull, attcollation::regcollation, pg_get_expr(adbin, adrelid), attacl)
        from relation join pg_attribute on attrelid = relation.oid and attnum > 0
             left join pg_attrdef on adrelid = attrelid and adnum = attnum
      union all select format('constraint %s.%s %s %s', nspname, relname, conname, pg_get_constraintdef(pg_constraint.oid))
        from relation join pg_constraint on conrelid = relation.oid
      union all select format('index %s', pg_get_indexdef(indexrelid)) from relation join pg_index on indrelid = relation.oid
      union all select format('trigger %s', pg_get_triggerdef(pg_trigger.oid)) from relation join pg_trigger on tgrelid = relation.oid and not tgisinternal
      union all select format('function %s %s %s', p.oid::regprocedure, proowner::regrole, proacl) from pg_proc p join namespace n on n.oid = p.pronamespace
      union all select format('policy %s.%s %s', nspname, relname, polname) from relation join pg_policy on polrelid = relation.oid
      union all select format('comment %s', description) from pg_description join relation on objoid = relation.oid
      union all select format('view %s.%s %s', nspname, relname, pg_get_viewdef(oid)) from relation where relkind = 'v'
      order by 1";
    values(admin, facts, &[]).await
}

/// Every row of every table, with where it is and which transaction wrote it, and every sequence, as one digest each.
async fn rows(admin: &Client) -> Vec<String> {
    let relations = "select c.oid::regclass::text, c.relkind = 'S' from pg_class c join pg_namespace n on n.oid = c.relnamespace
                      where n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and c.relkind in ('r', 'S') order by 1";
    let relations = admin.query(relations, &[]).await.expect("relations");
    let mut digests = Vec::new();
    for (name, is_sequence) in relations.iter().map(|row| (row.get::<_, String>(0), row.get::<_, bool>(1))) {
        let digest = if is_sequence {
            format!("select concat_ws(' ', '{name}', last_value, log_cnt, is_called) from {name}")
        } else {
            format!(
                "select '{name} ' || count(*) || ' ' || md5(coalesce(string_agg(concat(t.ctid, t.xmin, t::text), '|' order by t.ctid), ''))
                   from {name} t"
            )
        };
        digests.push(value::<String>(admin, &digest, &[]).await);
    }
    digests
}
