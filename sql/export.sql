-- The audit log for others: for compliance, for a SIEM. One line of JSON an event, the same in every version of the service;
-- what the details hold is in auth.audit_event_types.

-- With the caller's rights, which the policies of auth.audit_log know. All members are always there, in this order; a new
-- one is added at the end. What breaks a reader is a new format.
create function auth.export_audit_log(
  from_time timestamptz, to_time timestamptz, organization_id uuid default null,
  after_time timestamptz default null, after_id bigint default null
) returns setof text
  language plpgsql stable parallel restricted set search_path = pg_catalog, pg_temp
  as $$
begin
  perform auth.require_span(from_time, to_time);
  if num_nulls(after_time, after_id) = 1 then
    raise exception 'after_time and after_id come together' using errcode = 'invalid_parameter_value',
      hint = 'They are the members at and id of the last line that you have.';
  end if;
  return query
    select row_to_json(line)::text
      from (select 1 as format, a.id,
                   to_char(a.created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as at,
                   a.action,
                   -- Written by us alone, and only where it is not 1: see auth.audit_event_types.
                   coalesce((a.details ->> 'version')::int, 1) as version,
                   a.severity, a.success, a.user_id, a.organization_id, a.session_id, a.family_id, a.actor, a.actor_user_id,
                   a.correlation_id, a.ip_cidr::text as network, a.user_agent, a.details
              from auth.audit_log a
             where a.created_at >= greatest(from_time, after_time) and a.created_at < to_time
               and (export_audit_log.organization_id is null or a.organization_id = export_audit_log.organization_id)
               and (after_id is null or (a.created_at, a.id) > (after_time, after_id))
             order by a.created_at, a.id) line;
end
$$;
comment on function auth.export_audit_log is 'The events of that time (to_time is not in it), of one organization or of all, as lines of JSON, the oldest first; from after one on, to go on with an export that was interrupted. For auth_monitor and auth_admin. For much of it take auth-api export, which asks for a little at a time.';
