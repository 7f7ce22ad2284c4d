//! `auth-api export`: the audit log as lines of JSON, for compliance and for other systems. Read a stretch of time at a
//! time, so that neither side holds much of it and no transaction lasts; written in a stable order, so that what was
//! interrupted goes on where it was.

mod output;
mod progress;
mod window;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use clap::Args;
use uuid::Uuid;

use self::{output::Output, progress::Progress, window::Widths};
use crate::db::{Db, Export, Window};

/// Older than this, an event is committed: no transaction of the service lasts as long.
const SETTLED: TimeDelta = TimeDelta::minutes(1);

/// What to export.
#[derive(Args)]
pub struct ExportArgs {
    /// The first moment: a day (2026-11-01, UTC) or a time (2026-11-01T12:00:00Z).
    #[arg(long, value_parser = moment)]
    from: DateTime<Utc>,
    /// The moment after the last one. At most a minute ago, so that nothing of that time is still under way.
    #[arg(long, value_parser = moment)]
    to: DateTime<Utc>,
    /// Only what happened in the name of this organization: its id, or its slug.
    #[arg(long)]
    organization: Option<String>,
    /// Writes to this file, which only its owner may read, instead of standard output.
    #[arg(long)]
    output: Option<std::path::PathBuf>,
    /// Goes on with the file of --output, after the last whole line in it.
    #[arg(long, requires = "output")]
    resume: bool,
    /// Begins after this event: members at and id of the last line that you have, as AT/ID.
    #[arg(long, value_parser = place, conflicts_with = "resume")]
    after: Option<Place>,
}

/// Of an event, in the order of the export.
type Place = (DateTime<Utc>, i64);

fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().and_then(|day| day.and_hms_opt(0, 0, 0));
    let time = day.map(|day| day.and_utc()).or_else(|| Some(DateTime::parse_from_rfc3339(text).ok()?.to_utc()));
    time.filter(|time| (0..253_402_300_800).contains(&time.timestamp()))
        .ok_or_else(|| "it must look like 2026-11-01 or 2026-11-01T12:00:00Z, of the years 1970 to 9999".to_owned())
}

fn place(text: &str) -> Result<Place, String> {
    let parsed = text.split_once('/').and_then(|(at, id)| Some((moment(at).ok()?, id.parse().ok()?)));
    parsed.ok_or_else(|| "it must look like 2026-11-01T12:00:00.123456Z/4711".to_owned())
}

/// Does it. An error is a sentence for the operator.
pub async fn run(args: ExportArgs, db: Db) -> Result<(), String> {
    if args.from >= args.to {
        return Err("--from must be before --to.".into());
    }
    let door = db.export().await?;
    if !door.is_allowed().await? {
        return Err(
            "this login is neither in role auth_monitor nor in auth_admin. Set ADMIN_DATABASE_URL to one that \
                    is, or, as a superuser: grant auth_monitor to the_login;"
                .into(),
        );
    }
    let (known, is_standby) = door.knows_until().await?;
    let settled = known - SETTLED;
    if args.to > settled {
        let settled = time(settled);
        return Err(if is_standby {
            format!("--to must be at least a minute before the last thing that this standby has heard of, {settled}.")
        } else {
            format!(
                "--to must be at least a minute ago, {settled}: of the last moments something may still be under way."
            )
        });
    }
    let organization_id = match args.organization.as_deref() {
        None => None,
        Some(name) => Some(find_organization(&door, name).await?),
    };
    for month in door.dropped_months(args.from, args.to).await? {
        let (partition, rows) = (month.partition, month.rows);
        eprintln!("Not in it: {rows} events of {partition}, which auth_sessions.audit_retention has taken away.");
    }
    let mut output = Output::open(args.output.as_deref(), args.resume)?;
    let after = args.after.or(output.last());
    if after.is_some_and(|(at, _)| !(args.from..args.to).contains(&at)) {
        return Err("the event to go on after is not of the time from --from to --to. Nothing was written.".into());
    }
    let span = Window { from: args.from, to: args.to, organization_id, after };
    let written = copy(&door, span, &mut output).await;
    if written.is_err()
        && let Some((at, id)) = output.last()
    {
        eprintln!("Interrupted. To go on: --after {}/{id}, or --resume with --output.", micros(at));
    }
    written
}

async fn find_organization(door: &Export, name: &str) -> Result<Uuid, String> {
    // By its id it need not exist any more: the log remembers.
    match name.parse() {
        Ok(id) => Ok(id),
        Err(_) => door.organization(name).await?.ok_or_else(|| {
            format!("there is no organization {name:?}. One that was deleted is found by its id alone.")
        }),
    }
}

async fn copy(door: &Export, span: Window, output: &mut Output) -> Result<(), String> {
    let mut progress = Progress::new(span.from, span.to);
    let mut widths = Widths::new();
    let mut from = span.after.map_or(span.from, |(at, _)| at);
    let mut after = span.after;
    let mut events = 0;
    while from < span.to {
        let to = widths.end_of(from).min(span.to);
        let window = Window { from, to, organization_id: span.organization_id, after: after.take() };
        let mut lines = door.lines(&window).await?;
        let mut read = 0;
        while let Some(line) = lines.next().await? {
            output.write(&line)?;
            read += 1;
            progress.show(events + read, from);
        }
        output.flush()?;
        events += read;
        widths.adapt(read);
        from = to;
        progress.show(events, from);
    }
    output.finish()?;
    progress.finish(events);
    Ok(())
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

fn micros(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_its_first_moment_in_utc() {
        assert_eq!(moment("2026-11-01"), moment("2026-11-01T01:00:00+01:00"));
        for text in ["", "yesterday", "2026-13-01", "2026-11-01T12:00:00", "1969-12-31", "+12026-01-01"] {
            assert!(moment(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_place_is_what_a_line_says() {
        let at = moment("2026-11-01T12:00:00.123456Z").unwrap();
        assert_eq!(place(&format!("{}/4711", micros(at))), Ok((at, 4711)));
        for text in ["", "/", "4711", "2026-11-01T12:00:00Z/", "2026-11-01T12:00:00Z/x", "x/1"] {
            assert!(place(text).is_err(), "{text}");
        }
    }
}
