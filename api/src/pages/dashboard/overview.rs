//! The first page of the dashboard: figures, charts, the newest incidents, and what must be looked after.

use std::sync::Arc;

use askama::Template;
use chrono::{DateTime, TimeDelta, Utc};
use poem::{
    Response, Result, handler,
    web::{Data, Query},
};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    Frame, Scope, ShownIncident, ShownLockout,
    chart::{Chart, Kind, bytes, grouped},
    oversee,
};
use crate::{
    app::App,
    db::{Overseer, Step, Upkeep},
    error::Problem,
    pages::{html, view::When, viewer::Viewer},
};

/// How many of each list.
const FEW: i32 = 5;

/// How far back the charts go.
#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Range {
    #[default]
    Day,
    Week,
    Month,
}

impl Range {
    const ALL: [Self; 3] = [Self::Day, Self::Week, Self::Month];

    fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Day => "24 hours",
            Self::Week => "7 days",
            Self::Month => "30 days",
        }
    }

    /// How long, and in steps of how many minutes.
    fn steps(self) -> (TimeDelta, i32) {
        match self {
            Self::Day => (TimeDelta::days(1), 60),
            Self::Week => (TimeDelta::days(7), 6 * 60),
            Self::Month => (TimeDelta::days(30), 24 * 60),
        }
    }

    /// When the page counts again, as htmx says it: a moment after the last of several changes, while that costs little. A
    /// longer time is more to read, and changes less.
    fn renewal(self) -> &'static str {
        match self {
            Self::Day => "sse:changed delay:2s, every 60s",
            Self::Week | Self::Month => "every 60s",
        }
    }

    fn time_format(self) -> &'static str {
        match self {
            Self::Day => "%H:%M",
            Self::Week => "%-d %b, %H:%M",
            Self::Month => "%-d %b",
        }
    }
}

#[derive(Deserialize)]
struct Asked {
    organization: Option<Uuid>,
    #[serde(default)]
    range: Range,
}

struct Figure {
    title: &'static str,
    value: String,
    hint: String,
    tone: &'static str,
}

struct Choice {
    title: &'static str,
    path: String,
    is_chosen: bool,
}

/// A row of the table that says what the charts show.
struct Row {
    since: String,
    cells: Vec<String>,
}

/// What changes while one looks.
struct Now {
    incidents: Vec<ShownIncident>,
    lockouts: Vec<ShownLockout>,
    at: When,
}

impl Now {
    async fn read(overseer: &Overseer) -> Result<Self, Problem> {
        let incidents = overseer.incidents(FEW, None).await?;
        let lockouts = overseer.lockouts(FEW).await?;
        Ok(Self {
            incidents: incidents.into_iter().map(Into::into).collect(),
            lockouts: lockouts.into_iter().map(Into::into).collect(),
            at: Utc::now().into(),
        })
    }
}

#[derive(Template)]
#[template(path = "pages/dashboard/overview.html")]
struct Overview {
    frame: Frame,
    /// Of this page itself, which renews its figures from there.
    path: String,
    renewal: &'static str,
    scope: Scope,
    figures: Vec<Figure>,
    counted_at: When,
    choices: Vec<Choice>,
    range: &'static str,
    from: When,
    charts: Vec<Chart>,
    columns: Vec<&'static str>,
    rows: Vec<Row>,
    now: Now,
    upkeep: Vec<Upkeep>,
}

/// `GET /dashboard?organization=&range=`
#[handler]
pub async fn overview_page(Data(app): Data<&Arc<App>>, Query(asked): Query<Asked>, viewer: Viewer) -> Result<Response> {
    let overseer = oversee(app, &viewer, asked.organization).await?;
    let (length, minutes) = asked.range.steps();
    let from = Utc::now() - length;
    let figures = overseer.figures().await?;
    let steps = overseer.activity(from, minutes).await?;
    let now = Now::read(&overseer).await?;
    let upkeep = overseer.upkeep().await?;
    let scope = Scope::of(&overseer.done().await?, asked.organization);

    let families = if figures.live_families == 1 { "family" } else { "families" };
    let share = format!(
        "of {} {families}; {} used in the last hour",
        grouped(figures.live_families),
        grouped(figures.used_in_last_hour)
    );
    let bad = |count: i64| if count > 0 { "bad" } else { "" };
    let day = || "in the last 24 hours".to_owned();
    let figures_shown = vec![
        Figure { title: "Live sessions", value: grouped(figures.live_sessions), hint: share, tone: "" },
        Figure { title: "Opened", value: grouped(figures.opened), hint: day(), tone: "" },
        Figure { title: "Ended", value: grouped(figures.ended), hint: day(), tone: "" },
        Figure { title: "Failed logins", value: grouped(figures.failed), hint: day(), tone: "" },
        Figure { title: "Replays", value: grouped(figures.replays), hint: day(), tone: bad(figures.replays) },
    ];
    let path_of = |range: Range| {
        let path = scope.path("/dashboard");
        format!("{path}{}range={}", if path.contains('?') { "&" } else { "?" }, range.name())
    };
    let choices =
        Range::ALL.map(|range| Choice { title: range.title(), path: path_of(range), is_chosen: range == asked.range });
    let (charts, columns, rows) = drawn(&steps, asked.range, scope.is_all);
    Ok(html(&Overview {
        frame: viewer.frame,
        path: path_of(asked.range),
        renewal: asked.range.renewal(),
        figures: figures_shown,
        counted_at: figures.counted_at.into(),
        choices: choices.into(),
        range: asked.range.title(),
        from: steps.first().map_or(from, |step| step.since).into(),
        scope,
        charts,
        columns,
        rows,
        now,
        upkeep,
    })?)
}

/// What was counted over time.
struct Measure {
    title: &'static str,
    /// The colour of its chart; none: it is in the table only.
    tone: Option<&'static str>,
    kind: Kind,
    of: fn(&Step) -> Option<i64>,
}

impl Measure {
    const fn new(title: &'static str, tone: Option<&'static str>, kind: Kind, of: fn(&Step) -> Option<i64>) -> Self {
        Self { title, tone, kind, of }
    }
}

const OF_EVERYBODY: [Measure; 5] = [
    Measure::new("Sessions opened", Some("accent"), Kind::Events, |step| Some(step.opened)),
    Measure::new("Sessions ended", Some("muted"), Kind::Events, |step| Some(step.ended)),
    Measure::new("Failed logins", Some("warning"), Kind::Events, |step| Some(step.failed_logins)),
    Measure::new("Lock-outs", Some("warning"), Kind::Events, |step| Some(step.lockouts)),
    Measure::new("Replays", Some("bad"), Kind::Events, |step| Some(step.replays)),
];

/// What the database counts for all organizations together.
const OF_OPERATORS: [Measure; 5] = [
    Measure::new("Refreshes", Some("good"), Kind::Events, |step| step.refreshed),
    Measure::new("Refused refreshes", Some("bad"), Kind::Events, |step| step.refused),
    Measure::new("Live sessions", Some("accent"), Kind::State, |step| step.live_sessions),
    // As many as sessions but for a few: a chart of them would be the same one again.
    Measure::new("Live families", None, Kind::State, |step| step.live_families),
    Measure::new("Sessions and log", Some("muted"), Kind::Bytes, |step| step.bytes),
];

/// The charts, and the columns and rows of the table that says the same.
fn drawn(steps: &[Step], range: Range, is_all: bool) -> (Vec<Chart>, Vec<&'static str>, Vec<Row>) {
    let for_operators: &[Measure] = if is_all { &OF_OPERATORS } else { &[] };
    let measures = || OF_EVERYBODY.iter().chain(for_operators);
    let format = range.time_format();
    let chart = |measure: &Measure| {
        let value = |step: &Step| (step.since, (measure.of)(step));
        let values: Vec<(DateTime<Utc>, Option<i64>)> = steps.iter().map(value).collect();
        measure.tone.map(|tone| Chart::new(measure.title, tone, measure.kind, &values, format))
    };
    let cell = |kind: Kind, value: Option<i64>| match value {
        None => "–".to_owned(),
        Some(value) if kind == Kind::Bytes => bytes(value),
        Some(value) => grouped(value),
    };
    let rows = steps.iter().rev().map(|step| Row {
        since: step.since.format(format).to_string(),
        cells: measures().map(|measure| cell(measure.kind, (measure.of)(step))).collect(),
    });
    (measures().filter_map(chart).collect(), measures().map(|measure| measure.title).collect(), rows.collect())
}

#[derive(Template)]
#[template(path = "pages/dashboard/now.html")]
struct NowPart {
    scope: Scope,
    now: Now,
}

/// `GET /dashboard/now`: the part of the page that a live update replaces.
#[handler]
pub async fn now_part(
    Data(app): Data<&Arc<App>>,
    Query(asked): Query<super::Asked>,
    viewer: Viewer,
) -> Result<Response> {
    let overseer = oversee(app, &viewer, asked.organization).await?;
    let now = Now::read(&overseer).await?;
    let scope = Scope::of(&overseer.done().await?, asked.organization);
    Ok(html(&NowPart { scope, now })?)
}
