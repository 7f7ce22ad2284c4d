//! Statements of an attacker, made up by a seeded generator from what the catalogue has and what the attacker knows.
//!
//! Half of it is aimed (a view of another's rows, a function with another's ids, an operator that tells), half is noise
//! that finds what nobody thought of. Left out is what would only disturb other tests or the machine: changing the
//! service's own password or settings in the whole cluster, ending connections, sleeping, filling memory.

use fastrand::Rng;

use super::calls::Person;

/// A table, view, index or sequence and its columns (name, type).
#[derive(Clone, Debug)]
pub struct Relation {
    /// With its schema, quoted.
    pub name: String,
    /// Columns, with the system's own.
    pub columns: Vec<(String, String)>,
}

/// A function and its arguments.
#[derive(Clone, Debug)]
pub struct Function {
    /// With its schema.
    pub name: String,
    /// Name and type of each.
    pub arguments: Vec<(String, String)>,
    /// How many of them may be left out.
    pub defaults: usize,
    /// Whether the service may call it.
    pub allowed: bool,
}

/// What there is to attack, and what the attacker knows.
#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    /// Of schema `auth`.
    pub relations: Vec<Relation>,
    /// Of schema `auth`.
    pub functions: Vec<Function>,
    /// Ids, one's own and others', and one that nothing has.
    pub uuids: Vec<String>,
    /// Addresses, slugs, names of roles and tables.
    pub texts: Vec<String>,
    /// Hexadecimal: one's own proofs and tickets, and what looks like another's.
    pub bytes: Vec<String>,
    /// What is known of others.
    pub victims: Vec<Person>,
    /// What is known of oneself.
    pub own: Vec<Person>,
    /// Roles that one is not in.
    pub roles: Vec<String>,
}

/// Makes statements.
pub struct Grammar<'a> {
    pub(super) know: &'a Knowledge,
    rng: Rng,
}

impl<'a> Grammar<'a> {
    /// The same seed makes the same statements.
    pub fn new(know: &'a Knowledge, seed: u64) -> Self {
        Self { know, rng: Rng::with_seed(seed) }
    }

    pub(super) fn pick<'b>(&mut self, from: &[&'b str]) -> &'b str {
        from[self.rng.usize(..from.len())]
    }

    pub(super) fn chance(&mut self, percent: u8) -> bool {
        self.rng.u8(..100) < percent
    }

    fn text(&mut self) -> String {
        let known = self.know.texts[self.rng.usize(..self.know.texts.len())].clone();
        match self.rng.u8(..10) {
            0 => String::new(),
            1 => "x".repeat(self.rng.usize(1..2000)),
            2 => format!("{known}' or true --"),
            3 => "%".into(),
            4 => format!("eve-{}@example.org", self.rng.u32(..)),
            _ => known,
        }
    }

    fn quoted(&mut self) -> String {
        format!("'{}'", self.text().replace('\'', "''"))
    }

    /// A literal of a type, mostly one that means something.
    pub(super) fn literal(&mut self, of: &str) -> String {
        if self.chance(4) {
            return format!("null::{of}");
        }
        let uuid = self.know.uuids[self.rng.usize(..self.know.uuids.len())].clone();
        let bytes = self.know.bytes[self.rng.usize(..self.know.bytes.len())].clone();
        match of {
            "uuid" => format!("'{uuid}'::uuid"),
            "bytea" => format!("'\\x{bytes}'::bytea"),
            "integer" | "bigint" | "smallint" => {
                let small = self.rng.i32(-1..5).to_string();
                format!("({})::{of}", self.pick(&[&small, "0", "1", "2147483647", "-2147483648"]))
            }
            "boolean" => self.pick(&["true", "false"]).into(),
            "interval" => format!("'{}'::interval", self.pick(&["1 hour", "0", "-1 day", "1000 years", "1 second"])),
            "timestamp with time zone" => {
                self.pick(&["now()", "'infinity'::timestamptz", "'epoch'::timestamptz"]).into()
            }
            "inet" | "cidr" => format!("'{}'::{of}", self.pick(&["203.0.113.0", "::", "10.0.0.0/8"])),
            "jsonb" | "json" => format!("'{}'::{of}", self.pick(&["{}", "[]", "{\"token\": \"x\"}", "null"])),
            "regclass" => format!("'{}'::regclass", self.relation().name),
            "name" | "text" | "character varying" => format!("{}::{of}", self.quoted()),
            _ if of.ends_with("[]") => {
                let of = of.trim_end_matches("[]").to_owned();
                let items: Vec<String> = (0..self.rng.usize(..3)).map(|_| self.literal(&of)).collect();
                format!("array[{}]::{of}[]", items.join(", "))
            }
            // A row: made up, or somebody's.
            _ if of.starts_with("auth.") && self.chance(50) => format!("(select r from {of} r limit 1)"),
            _ => format!("null::{of}"),
        }
    }

    fn relation(&mut self) -> Relation {
        self.know.relations[self.rng.usize(..self.know.relations.len())].clone()
    }

    fn column(&mut self, relation: &Relation) -> (String, String) {
        relation.columns[self.rng.usize(..relation.columns.len())].clone()
    }

    /// An expression over a relation that is called `r`.
    fn expression(&mut self, relation: &Relation) -> String {
        let (column, kind) = self.column(relation);
        let (other, _) = self.column(relation);
        let literal = self.literal(&kind);
        match self.rng.u8(..20) {
            0 => "r".into(),
            1 => "r::text".into(),
            2 => "to_jsonb(r)".into(),
            3 => format!("md5(r.{column}::text)"),
            // An error tells the value that could not be read.
            4 => format!("r.{column}::text::int"),
            5 => format!("1 / (length(r.{column}::text) - {})", self.rng.u8(..40)),
            6 => format!("cast(r.{column}::text as xml)"),
            7 => format!("coalesce(r.{column}::text, r.{other}::text)"),
            8 => format!("(r.{column} = {literal})"),
            9 => format!("pg_temp.tell(r.{column}::text)"),
            10 => format!("(r.{column}::text operator(pg_temp.~~~) {})", self.quoted()),
            11 => format!("row_number() over (order by r.{column})"),
            12 => format!("pg_catalog.pg_column_size(r.{column})"),
            13 => format!("format('%s %s', r.{column}, r.{other})"),
            14 => format!("(select count(*) from {} s where s::text > r.{column}::text)", self.relation().name),
            15 => "r.ctid".into(),
            16 => "(r).*".into(),
            _ => format!("r.{column}"),
        }
    }

    fn condition(&mut self, relation: &Relation) -> String {
        let (column, kind) = self.column(relation);
        let literal = self.literal(&kind);
        let expression = self.expression(relation);
        match self.rng.u8(..8) {
            0 => "true".into(),
            1 => format!("r.{column} is not null"),
            2 => format!("r.{column} = {literal}"),
            3 => format!("r.{column}::text like {}", self.quoted()),
            4 => format!("r.{column} in (select s.{column} from {} s)", relation.name),
            5 => format!("exists (select from {} s where s.{column} = r.{column})", relation.name),
            6 => format!("pg_temp.tell(({expression})::text)"),
            _ => format!("r.{column} is distinct from {literal}"),
        }
    }

    /// A query that only reads, and whose answer hangs on nothing but what the reader may see.
    pub fn read(&mut self) -> String {
        let relation = self.relation();
        let name = &relation.name;
        let (column, _) = self.column(&relation);
        let condition = self.condition(&relation);
        let expression = self.expression(&relation);
        match self.rng.u8(..16) {
            0 => format!("select count(*) from {name} r"),
            1 => format!("select count(r.{column}), min(r.{column}::text), max(r.{column}::text) from {name} r"),
            2 => format!("select 1 / count(*) from {name} r where {condition}"),
            3 => {
                let other = self.relation();
                let (theirs, _) = self.column(&other);
                let how = self.pick(&["join", "left join", "full join", "right join"]);
                format!(
                    "select {expression}, o.{theirs} from {name} r {how} {} o on o.{theirs}::text = r.{column}::text",
                    other.name
                )
            }
            4 => format!(
                "select * from {name} r cross join lateral (select s.* from {name} s where s.{column} = r.{column}) l"
            ),
            5 => format!(
                "with recursive w as (select {expression} as e from {name} r union select w.e from w) select e::text from w"
            ),
            6 => format!(
                "select r.{column} from {name} r {} select s.{column} from {name} s",
                self.pick(&["union", "intersect", "except"])
            ),
            7 => format!("select {column}, count(*) from {name} r group by cube ({column}) having {}", "count(*) > 0"),
            8 => format!("select distinct on (r.{column}) {expression} from {name} r order by r.{column}"),
            9 => format!("select string_agg(({expression})::text, ',') from {name} r where {condition}"),
            10 => format!("select query_to_xml('select * from {name}', true, false, '')"),
            11 => format!(
                "select {} ('{name}', true, false, '')",
                self.pick(&["table_to_xml", "table_to_xml_and_xmlschema"])
            ),
            12 => format!("select {expression} from {name} r tablesample system (100)"),
            13 => format!("select array(select ({expression})::text from {name} r where {condition})"),
            _ => format!("select {expression} from {name} r where {condition}"),
        }
    }

    /// Anything.
    pub fn statement(&mut self) -> String {
        let relation = self.relation();
        let name = &relation.name;
        let (column, kind) = self.column(&relation);
        let value = self.literal(&kind);
        let condition = self.condition(&relation);
        let role = self.know.roles[self.rng.usize(..self.know.roles.len())].clone();
        let (read, call, number) = (self.read(), self.call(), self.rng.u16(..));
        // What one is let into does the most.
        if self.chance(50) {
            return format!("select * from {call}");
        }
        match self.rng.u8(..50) {
            0..15 => read,
            15..19 => format!("select {call}"),
            19 => format!("select ({call}).*"),
            20 => format!("select r.*, f from {name} r, lateral {call} f"),
            21 => format!("update {name} r set {column} = {value} where {condition} returning *"),
            22 => format!("delete from {name} r where {condition} returning *"),
            23 => format!("insert into {name} ({column}) values ({value}) on conflict do nothing returning *"),
            24 => format!(
                "insert into {name} select * from {name} on conflict ({column}) do update set {column} = excluded.{column}"
            ),
            25 => format!(
                "merge into {name} r using {name} s on r.{column} = s.{column} when matched then {}",
                self.pick(&["delete", "do nothing"])
            ),
            26 => format!("with w as (delete from {name} r returning r.*) select * from w"),
            27 => format!("copy ({read}) to stdout"),
            28 => format!("copy {name} to stdout"),
            29 => format!("explain (analyze, verbose, settings) {read}"),
            30 => format!("prepare p{number} as {read}; execute p{number}; deallocate p{number}"),
            31 => format!("declare c{number} cursor with hold for {read}; fetch all from c{number}; close c{number}"),
            32 => {
                format!("do $do$ declare r record; begin for r in {read} loop raise notice '%', r; end loop; end $do$")
            }
            33 => format!(
                "do $do$ begin perform {call}; exception when others then raise notice '% % %', sqlerrm, sqlstate, {}; end $do$",
                self.pick(&["current_user", "session_user", "current_setting('role')"])
            ),
            34 => format!("create temp table t{number} as {read}; table t{number}; drop table t{number}"),
            35 => format!(
                "create temp view v{number} {} as {read}; select * from v{number}; drop view v{number}",
                self.pick(&["", "with (security_barrier)", "with (security_invoker)"])
            ),
            36 => format!("create temp table i{number} () inherits ({name}); table i{number}"),
            37 => format!(
                "create temp table l{number} (like {name} including all); insert into l{number} select * from {name}; drop table l{number}"
            ),
            38 => format!(
                "create temp table k{number} (k {kind} references {name} ({column})); insert into k{number} values ({value})"
            ),
            39 => format!("set role {role}; {read}; reset role"),
            40 => format!(
                "select set_config('{}', {}, {})",
                self.pick(&[
                    "role",
                    "session_authorization",
                    "row_security",
                    "search_path",
                    "auth_sessions.retry_window",
                    "auth.user_id",
                    "session_replication_role",
                    "default_transaction_isolation"
                ]),
                self.quoted(),
                self.pick(&["true", "false"])
            ),
            41 => format!(
                "alter {} {name} {}",
                self.pick(&["table", "view", "index", "sequence"]),
                self.pick(&[
                    "owner to current_user",
                    "disable row level security",
                    "rename to mine",
                    "set schema public",
                    "disable trigger all",
                    "add column evil int"
                ])
            ),
            42 => format!(
                "{} {name}",
                self.pick(&[
                    "lock table",
                    "truncate",
                    "analyze",
                    "vacuum",
                    "drop table",
                    "drop view cascade",
                    "reindex table",
                    "cluster"
                ])
            ),
            43 => format!("grant {} on {name} to {role}", self.pick(&["all", "select", "update"])),
            44 => format!(
                "create {} on {name} {}",
                self.pick(&[
                    "policy evil",
                    "rule evil as on select to",
                    "statistics evil on id from",
                    "trigger evil before insert"
                ]),
                self.pick(&[
                    "using (true)",
                    "do instead nothing",
                    "execute function pg_temp.tell('x')",
                    "for each row execute function pg_temp.trap()"
                ])
            ),
            45 => format!(
                "create or replace function pg_temp.f{number}() returns setof text language plpgsql security definer as $f$ begin return query select x::text from ({read}) x; perform {call}; end $f$; select * from pg_temp.f{number}()"
            ),
            46 => format!(
                "select * from {} where {}",
                self.pick(&[
                    "pg_stats",
                    "pg_statistic",
                    "pg_stat_activity",
                    "pg_prepared_xacts",
                    "pg_authid",
                    "pg_shadow",
                    "pg_largeobject",
                    "pg_stat_statements",
                    "pg_locks",
                    "pg_stat_user_tables",
                    "pg_sequences",
                    "pg_hba_file_rules",
                    "pg_file_settings"
                ]),
                self.pick(&["true", "pg_temp.tell('x')"])
            ),
            47 => format!(
                "select {}",
                self.pick(&[
                    "pg_read_file('pg_hba.conf')",
                    "pg_ls_dir('.')",
                    "lo_import('/etc/passwd')",
                    "pg_relation_filepath('auth.users')",
                    "pg_get_viewdef('auth.active_sessions')",
                    "currval('auth.audit_log_id_seq')",
                    "nextval('auth.audit_log_id_seq')",
                    "pg_logical_emit_message(true, 'x', 'y')",
                    "txid_current()",
                    "pg_export_snapshot()"
                ])
            ),
            48 => format!("begin; {read}; {call_it}; commit", call_it = format_args!("select {call}")),
            _ => format!("notify auth_events, {}", self.quoted()),
        }
    }

    /// A number below `below`, for who drives this.
    pub fn number(&mut self, below: usize) -> usize {
        self.rng.usize(..below)
    }
}
