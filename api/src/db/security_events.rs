//! The security timeline: a user's own, or an organization's. Read from the view, under its policies: the predicates here
//! choose among what the identity may see, and let the planner find it by an index of each month's partition.

use chrono::{DateTime, Utc};
use deadpool_postgres::tokio_postgres::Row;
use uuid::Uuid;

use super::{Db, Scope, named, params::Param};
use crate::{
    credential::Credential,
    device::Caller,
    error::{Code, Problem},
};

/// One event.
pub struct SecurityEvent {
    /// Unique.
    pub id: i64,
    /// When it happened.
    pub created_at: DateTime<Utc>,
    /// What happened.
    pub action: String,
    /// info, warning or critical.
    pub severity: String,
    /// Whether it was done, or refused.
    pub success: bool,
    /// Whom it concerns.
    pub user_id: Option<Uuid>,
    /// Which session.
    pub session_id: Option<Uuid>,
    /// Which family.
    pub family_id: Option<Uuid>,
    /// From where.
    pub network: Option<String>,
    /// With what.
    pub user_agent: Option<String>,
    /// JSON of the database's own, not all of which is for users.
    pub details: Option<String>,
    /// The request.
    pub correlation_id: Option<String>,
    /// Who did it, where that was proved.
    pub actor_user_id: Option<Uuid>,
}

impl SecurityEvent {
    fn read(row: &Row) -> Result<Self, Problem> {
        Ok(Self {
            id: named(row, "id")?,
            created_at: named(row, "created_at")?,
            action: named(row, "action")?,
            severity: named(row, "severity")?,
            success: named(row, "success")?,
            user_id: named(row, "user_id")?,
            session_id: named(row, "session_id")?,
            family_id: named(row, "family_id")?,
            network: named(row, "network")?,
            user_agent: named(row, "user_agent")?,
            details: named(row, "details")?,
            correlation_id: named(row, "correlation_id")?,
            actor_user_id: named(row, "actor_user_id")?,
        })
    }
}

/// Which events, the newest first.
#[derive(Default)]
pub struct EventFilter {
    /// Of this organization; none: of the user.
    pub organization_id: Option<Uuid>,
    /// What happened.
    pub action: Option<String>,
    /// How bad.
    pub severity: Option<&'static str>,
    /// Done, or refused.
    pub success: Option<bool>,
    /// Of one session.
    pub session_id: Option<Uuid>,
    /// From this time on.
    pub from: Option<DateTime<Utc>>,
    /// Before this time.
    pub to: Option<DateTime<Utc>>,
    /// After this one, in the order of the list: time and id of the last of the page before.
    pub after: Option<(DateTime<Utc>, i64)>,
    /// How many.
    pub limit: i64,
}

// The bound on created_at alone says less than the comparison of rows, but is what partitions are passed over by.
macro_rules! events {
    ($whose:literal) => {
        concat!(
            "select id, created_at, action, severity, success, user_id, session_id, family_id, ip_cidr::text as network, \
                user_agent, details::text as details, correlation_id, actor_user_id \
            from auth.security_events \
            where ",
            $whose,
            " and created_at >= coalesce($1::timestamptz, '-infinity') \
              and created_at < coalesce($2::timestamptz, 'infinity') \
              and created_at <= coalesce($3::timestamptz, 'infinity') \
              and ($3::timestamptz is null or (created_at, id) < ($3, $4::bigint)) \
              and ($5::text is null or action = $5) and ($6::text is null or severity = $6) \
              and ($7::boolean is null or success = $7) and ($8::uuid is null or session_id = $8) \
            order by created_at desc, id desc limit $9::bigint"
        )
    };
}

/// Of the user who acts.
pub(super) const OWN_EVENTS: &str = events!("user_id = (select auth.current_user_id())");
/// Of an organization.
pub(super) const EVENTS_OF_ORGANIZATION: &str = events!("organization_id = $10::uuid");

impl Db {
    /// A page of events.
    pub async fn security_events(
        &self,
        who: &Credential,
        filter: &EventFilter,
        caller: &Caller,
    ) -> Result<Vec<SecurityEvent>, Problem> {
        let acting = self.act_as(who, Scope::SecurityEventsRead, caller).await?;
        let (after_time, after_id) = filter.after.unzip();
        let mut params: Vec<&(dyn Param + Sync)> = vec![
            &filter.from,
            &filter.to,
            &after_time,
            &after_id,
            &filter.action,
            &filter.severity,
            &filter.success,
            &filter.session_id,
            &filter.limit,
        ];
        let rows = match &filter.organization_id {
            None => acting.all(OWN_EVENTS, &params).await?,
            Some(organization_id) => {
                // The policies show an owner all of it. To whoever is none they would show some of it: their own.
                let standing = "select $1 is not distinct from auth.current_organization_id() as is_active, \
                        'ORGANIZATION_OWNER' = any (auth.current_roles()) as is_owner, \
                        exists (select from auth.organization_members m \
                                 where m.organization_id = $1 and m.user_id = (select auth.current_user_id())) as is_member";
                let row = acting.one(standing, &[organization_id]).await?;
                let refusal = match (named(&row, "is_active")?, named(&row, "is_owner")?, named(&row, "is_member")?) {
                    (true, true, _) => None,
                    (true, false, true) => Some(Code::InsufficientRole),
                    (false, _, true) => Some(Code::OrganizationNotActive),
                    (_, _, false) => Some(Code::OrganizationNotFound),
                };
                if let Some(refusal) = refusal {
                    acting.commit().await?;
                    return Err(refusal.into());
                }
                params.push(organization_id);
                acting.all(EVENTS_OF_ORGANIZATION, &params).await?
            }
        };
        acting.commit().await?;
        rows.iter().map(SecurityEvent::read).collect()
    }
}
