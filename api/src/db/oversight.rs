//! What the dashboard shows, in one transaction a page; and what it ends. The database decides how far the session's user
//! reaches (`sql/oversight.sql`): what is asked for beyond it is not there.

use chrono::{DateTime, Utc};
use deadpool_postgres::tokio_postgres::Row;
use uuid::Uuid;

use super::{Acting, Db, Page, column, named, organizations::refusal};
use crate::{
    credential::SessionCredential,
    device::Caller,
    error::{Code, Problem},
};

/// How far somebody sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Everything.
    All,
    /// An organization.
    Organization,
    /// Of an organization those whom an administrator manages.
    Members,
}

/// What somebody oversees.
pub struct Oversight {
    /// How far.
    pub extent: Extent,
    /// Whether by being an operator.
    pub is_operator: bool,
    /// The organization's id, slug and name.
    pub organization: Option<(Uuid, String, String)>,
}

/// Figures of the moment and of the last day.
pub struct Figures {
    /// When the first three were counted.
    pub counted_at: DateTime<Utc>,
    /// Live sessions.
    pub live_sessions: i64,
    /// Of so many families.
    pub live_families: i64,
    /// Of the sessions.
    pub used_in_last_hour: i64,
    /// Sessions opened in the last day.
    pub opened: i64,
    /// Endings.
    pub ended: i64,
    /// Failed logins.
    pub failed: i64,
    /// Replays.
    pub replays: i64,
}

/// What happened in one step of time. None: not known.
pub struct Step {
    /// When it began.
    pub since: DateTime<Utc>,
    /// Sessions opened.
    pub opened: i64,
    /// Endings.
    pub ended: i64,
    /// Failed logins.
    pub failed_logins: i64,
    /// Lock-outs.
    pub lockouts: i64,
    /// Replays.
    pub replays: i64,
    /// Refreshes that were answered with a token.
    pub refreshed: Option<i64>,
    /// Refreshes that were refused.
    pub refused: Option<i64>,
    /// Live sessions at its end.
    pub live_sessions: Option<i64>,
    /// And their families.
    pub live_families: Option<i64>,
    /// Bytes of sessions and log at its end.
    pub bytes: Option<i64>,
}

/// How many events there are of what the dashboard lists.
pub struct News {
    /// Since the time that was asked about.
    pub count: i64,
    /// Since the time that will be asked about next.
    pub count_next: i64,
}

/// A replay.
pub struct Incident {
    /// Of its audit row.
    pub id: i64,
    /// When.
    pub detected_at: DateTime<Utc>,
    /// The family that ended by it.
    pub family_id: Option<Uuid>,
    /// Whose.
    pub email: Option<String>,
    /// Their name.
    pub name: Option<String>,
    /// What the session acted for.
    pub organization_slug: Option<String>,
    /// The generation that was shown.
    pub presented_generation: Option<i32>,
    /// The generation of then.
    pub current_generation: Option<i32>,
    /// From which network it was shown.
    pub presented_from: Option<String>,
    /// From which network the session was last used.
    pub last_used_from: Option<String>,
    /// The user agent that showed it.
    pub presented_by: Option<String>,
    /// The session's device.
    pub device_name: Option<String>,
}

/// Logins that were locked.
pub struct Lockout {
    /// When.
    pub locked_at: DateTime<Utc>,
    /// Whose; none: an address without an account.
    pub email: Option<String>,
    /// Their name.
    pub name: Option<String>,
    /// After how many failures.
    pub failures: Option<i32>,
    /// Until when.
    pub locked_until: DateTime<Utc>,
    /// Whether they still are.
    pub is_locked: bool,
    /// From which network the last failure came; operators are told.
    pub network: Option<String>,
}

/// A session, live or over.
pub struct OverseenSession {
    /// The session.
    pub id: Uuid,
    /// Its family.
    pub family_id: Uuid,
    /// Whose.
    pub user_id: Uuid,
    /// Their e-mail.
    pub email: String,
    /// Their name.
    pub name: String,
    /// What it acts for.
    pub organization: Option<(Uuid, String)>,
    /// For people.
    pub device_name: Option<String>,
    /// As its client says.
    pub user_agent: Option<String>,
    /// The network of its last client.
    pub network: Option<String>,
    /// When it was opened.
    pub created_at: DateTime<Utc>,
    /// When it was last refreshed.
    pub last_used_at: DateTime<Utc>,
    /// When it ends, or has ended by time.
    pub ends_at: DateTime<Utc>,
    /// How often it was refreshed.
    pub generation: i32,
    /// Whether it is neither revoked nor expired.
    pub is_live: bool,
    /// When it was revoked, and why.
    pub revoked: Option<(DateTime<Utc>, String)>,
    /// Whether an old token of it was shown.
    pub is_replayed: bool,
    /// Whether it is the one that asks.
    pub is_current: bool,
}

/// One thing that has to be done regularly.
pub struct Upkeep {
    /// What.
    pub topic: String,
    /// Whether it is as it should be.
    pub is_well: bool,
    /// How it is.
    pub value: String,
    /// What to do when it is not.
    pub advice: String,
}

/// Something that happened, as the log tells it.
pub struct HistoryEvent {
    /// When.
    pub at: DateTime<Utc>,
    /// What.
    pub action: String,
    /// What, in words.
    pub summary: Option<String>,
    /// info, warning or critical.
    pub severity: String,
    /// Who did it, where that was proved.
    pub actor_id: Option<Uuid>,
    /// From where.
    pub network: Option<String>,
    /// With what.
    pub user_agent: Option<String>,
    /// In which request.
    pub correlation_id: Option<String>,
    /// The reason that a person gave.
    pub note: Option<String>,
}

/// Somebody who oversees something, in a transaction of theirs.
pub struct Overseer {
    acting: Acting,
    /// The organization that was asked for.
    organization: Option<Uuid>,
    /// What they oversee.
    pub oversight: Oversight,
}

impl Db {
    /// Begins to read in the name of a session: of one organization, or of all that there is to see. None: nothing.
    pub async fn oversee(
        &self,
        who: &SessionCredential,
        organization: Option<Uuid>,
    ) -> Result<Option<Overseer>, Problem> {
        let acting = self.act_as_session(who).await?;
        let sql = "select is_operator, extent, organization_id, organization_slug, organization_name \
            from auth.oversight(of_organization => $1)";
        let Some(row) = acting.optional(sql, &[&organization]).await? else {
            acting.commit().await?;
            return Ok(None);
        };
        let extent = match named(&row, "extent")? {
            "all" => Extent::All,
            "organization" => Extent::Organization,
            _ => Extent::Members,
        };
        let name: Option<Uuid> = named(&row, "organization_id")?;
        let name = match name {
            Some(id) => Some((id, named(&row, "organization_slug")?, named(&row, "organization_name")?)),
            None => None,
        };
        let oversight = Oversight { extent, is_operator: named(&row, "is_operator")?, organization: name };
        Ok(Some(Overseer { acting, organization, oversight }))
    }

    /// How many events of the dashboard there are since a time; none for who oversees nothing (any more).
    pub async fn oversee_news(
        &self,
        who: &SessionCredential,
        organization: Option<Uuid>,
        since: DateTime<Utc>,
        next: DateTime<Utc>,
    ) -> Result<Option<News>, Problem> {
        let acting = self.act_as_session(who).await?;
        // In this order: what comes between the two counts is new now, and once more next time.
        let sql = "select auth.oversee_news(of_organization => $1, since => $3), auth.oversee_news(of_organization => $1, since => $2)";
        let row = acting.one(sql, &[&organization, &since, &next]).await?;
        let (count_next, count): (Option<i64>, Option<i64>) = (column(&row, 0)?, column(&row, 1)?);
        acting.commit().await?;
        Ok(count.zip(count_next).map(|(count, count_next)| News { count, count_next }))
    }

    /// Ends a family, for a reason; how many sessions ended.
    pub async fn end_overseen_family(
        &self,
        who: &SessionCredential,
        family_id: Uuid,
        reason: &str,
        caller: &Caller,
    ) -> Result<u32, Problem> {
        let sql = "select outcome, ended_sessions from auth.end_overseen_family(family_id => $1, note => $2, ip => $3, \
            user_agent => $4, correlation_id => $5)";
        self.end_overseen(who, sql, family_id, reason, caller).await
    }

    /// Ends all sessions of a user, for a reason; how many ended.
    pub async fn end_overseen_sessions(
        &self,
        who: &SessionCredential,
        user_id: Uuid,
        reason: &str,
        caller: &Caller,
    ) -> Result<u32, Problem> {
        let sql = "select outcome, ended_sessions from auth.end_overseen_sessions(user_id => $1, note => $2, ip => $3, \
            user_agent => $4, correlation_id => $5)";
        self.end_overseen(who, sql, user_id, reason, caller).await
    }

    async fn end_overseen(
        &self,
        who: &SessionCredential,
        sql: &'static str,
        what: Uuid,
        reason: &str,
        caller: &Caller,
    ) -> Result<u32, Problem> {
        let acting = self.act_as_session(who).await?;
        let row = acting.one(sql, &[&what, &reason, &caller.ip, &caller.user_agent, &caller.request_id]).await?;
        acting.commit().await?;
        match named(&row, "outcome")? {
            "ended" => Ok(named::<i32>(&row, "ended_sessions")?.unsigned_abs()),
            "session_not_found" => Err(Code::SessionNotFound.into()),
            "step_up_required" => Err(self.step_up_required().await),
            outcome => Err(refusal(outcome)),
        }
    }
}

impl Overseer {
    /// Figures.
    pub async fn figures(&self) -> Result<Figures, Problem> {
        let sql = "select * from auth.oversee_figures(of_organization => $1)";
        let row = self.acting.one(sql, &[&self.organization]).await?;
        Ok(Figures {
            counted_at: named(&row, "counted_at")?,
            live_sessions: named(&row, "live_sessions")?,
            live_families: named(&row, "live_families")?,
            used_in_last_hour: named(&row, "used_in_last_hour")?,
            opened: named(&row, "opened_in_last_day")?,
            ended: named(&row, "ended_in_last_day")?,
            failed: named(&row, "failed_in_last_day")?,
            replays: named(&row, "replays_in_last_day")?,
        })
    }

    /// What happened from a time on, in steps of so many minutes.
    pub async fn activity(&self, from: DateTime<Utc>, minutes: i32) -> Result<Vec<Step>, Problem> {
        let sql = "select * from auth.oversee_activity(of_organization => $1, from_time => $2, \
            step => make_interval(mins => $3::int))";
        let rows = self.acting.all(sql, &[&self.organization, &from, &minutes]).await?;
        let step = |row: &Row| {
            Ok(Step {
                since: named(row, "since")?,
                opened: named(row, "opened")?,
                ended: named(row, "ended")?,
                failed_logins: named(row, "failed_logins")?,
                lockouts: named(row, "lockouts")?,
                replays: named(row, "replays")?,
                refreshed: named(row, "refreshed")?,
                refused: named(row, "refused")?,
                live_sessions: named(row, "live_sessions")?,
                live_families: named(row, "live_families")?,
                bytes: named(row, "bytes")?,
            })
        };
        rows.iter().map(step).collect()
    }

    /// A page of the replays, the newest first: after the one of that time and id.
    pub async fn incidents(&self, size: i32, after: Option<(DateTime<Utc>, i64)>) -> Result<Vec<Incident>, Problem> {
        let sql = "select * from auth.oversee_incidents(of_organization => $1, page_size => $2, after_time => $3, \
            after_id => $4)";
        let (time, id) = after.unzip();
        let rows = self.acting.all(sql, &[&self.organization, &size, &time, &id]).await?;
        let incident = |row: &Row| {
            Ok(Incident {
                id: named(row, "id")?,
                detected_at: named(row, "detected_at")?,
                family_id: named(row, "family_id")?,
                email: named(row, "email")?,
                name: named(row, "name")?,
                organization_slug: named(row, "organization_slug")?,
                presented_generation: named(row, "presented_generation")?,
                current_generation: named(row, "current_generation")?,
                presented_from: named(row, "presented_from")?,
                last_used_from: named(row, "last_used_from")?,
                presented_by: named(row, "presented_by")?,
                device_name: named(row, "device_name")?,
            })
        };
        rows.iter().map(incident).collect()
    }

    /// Lock-outs of the last day, the newest first.
    pub async fn lockouts(&self, size: i32) -> Result<Vec<Lockout>, Problem> {
        let sql = "select * from auth.oversee_lockouts(of_organization => $1, page_size => $2)";
        let rows = self.acting.all(sql, &[&self.organization, &size]).await?;
        let lockout = |row: &Row| {
            Ok(Lockout {
                locked_at: named(row, "locked_at")?,
                email: named(row, "email")?,
                name: named(row, "name")?,
                failures: named(row, "failures")?,
                locked_until: named(row, "locked_until")?,
                is_locked: named(row, "is_locked")?,
                network: named(row, "network")?,
            })
        };
        rows.iter().map(lockout).collect()
    }

    /// A page of sessions, the newest first: live ones, or those that a search finds.
    pub async fn sessions(&self, search: &str, page: &Page) -> Result<Vec<OverseenSession>, Problem> {
        let sql = "select * from auth.oversee_sessions(of_organization => $1, search => $2, page_size => $3, \
            after_time => $4, after_id => $5)";
        let (time, id) = page.after();
        let rows = self.acting.all(sql, &[&self.organization, &search, &page.size, &time, &id]).await?;
        rows.iter().map(OverseenSession::read).collect()
    }

    /// Whether what has to be done regularly is done; nothing for who is no operator.
    pub async fn upkeep(&self) -> Result<Vec<Upkeep>, Problem> {
        let rows = self.acting.all("select * from auth.oversee_upkeep()", &[]).await?;
        let upkeep = |row: &Row| {
            Ok(Upkeep {
                topic: named(row, "topic")?,
                is_well: named(row, "is_well")?,
                value: named(row, "value")?,
                advice: named(row, "advice")?,
            })
        };
        rows.iter().map(upkeep).collect()
    }

    /// The story of a session, in order.
    pub async fn history(&self, session_id: Uuid) -> Result<Vec<HistoryEvent>, Problem> {
        let sql = "select h.at, h.action, h.summary, h.severity, h.actor_id, h.network::text as network, \
                h.user_agent, h.correlation_id, h.details ->> 'note' as note \
            from auth.session_history(session_id => $1) h";
        let rows = self.acting.all(sql, &[&session_id]).await?;
        let event = |row: &Row| {
            Ok(HistoryEvent {
                at: named(row, "at")?,
                action: named(row, "action")?,
                summary: named(row, "summary")?,
                severity: named(row, "severity")?,
                actor_id: named(row, "actor_id")?,
                network: named(row, "network")?,
                user_agent: named(row, "user_agent")?,
                correlation_id: named(row, "correlation_id")?,
                note: named(row, "note")?,
            })
        };
        rows.iter().map(event).collect()
    }

    /// Ends the transaction.
    pub async fn done(self) -> Result<Oversight, Problem> {
        self.acting.commit().await?;
        Ok(self.oversight)
    }
}

impl OverseenSession {
    fn read(row: &Row) -> Result<Self, Problem> {
        let organization: Option<Uuid> = named(row, "organization_id")?;
        let slug: Option<String> = named(row, "organization_slug")?;
        let revoked_at: Option<DateTime<Utc>> = named(row, "revoked_at")?;
        let reason: Option<String> = named(row, "revoked_reason")?;
        Ok(Self {
            id: named(row, "session_id")?,
            family_id: named(row, "family_id")?,
            user_id: named(row, "user_id")?,
            email: named(row, "email")?,
            name: named(row, "name")?,
            organization: organization.zip(slug),
            device_name: named(row, "device_name")?,
            user_agent: named(row, "user_agent")?,
            network: named(row, "network")?,
            created_at: named(row, "created_at")?,
            last_used_at: named(row, "last_used_at")?,
            ends_at: named(row, "ends_at")?,
            generation: named(row, "generation")?,
            is_live: named(row, "is_live")?,
            revoked: revoked_at.zip(reason),
            is_replayed: named(row, "is_replayed")?,
            is_current: named(row, "is_current")?,
        })
    }
}
