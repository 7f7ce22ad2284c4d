//! Small charts, made on the server: one measure over time each, as bars. What a chart shows, its table says.

use std::fmt::Write;

use chrono::{DateTime, Utc};

/// The size of a drawing, in its own units; it is stretched to the place that it has.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 100.0;

/// One bar.
pub struct Bar {
    /// From the left.
    pub x: String,
    /// From the top.
    pub y: String,
    /// How high.
    pub height: String,
    /// What it stands for, in words.
    pub label: String,
}

/// One measure over time.
pub struct Chart {
    /// What.
    pub title: &'static str,
    /// The colour's name in the style sheet.
    pub tone: &'static str,
    /// In words, for who does not see it.
    pub summary: String,
    /// The figure that says most: the sum, or the newest.
    pub total: String,
    /// The highest bar's value.
    pub most: String,
    /// How wide each is.
    pub bar_width: String,
    /// The bars.
    pub bars: Vec<Bar>,
}

/// How the values of a chart add up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Things that happened: they are added.
    Events,
    /// A state: the newest counts.
    State,
    /// The same, in bytes.
    Bytes,
}

impl Chart {
    /// Of values by time; a value that is not known has no bar.
    pub fn new(
        title: &'static str,
        tone: &'static str,
        kind: Kind,
        values: &[(DateTime<Utc>, Option<i64>)],
        time_format: &str,
    ) -> Self {
        let mut known = values.iter().filter_map(|(_, value)| *value);
        let most = known.clone().max().unwrap_or(0);
        let total = if kind == Kind::Events { known.sum() } else { known.next_back().unwrap_or(0) };
        let text = |value: i64| if kind == Kind::Bytes { bytes(value) } else { grouped(value) };
        let slot = WIDTH / values.len().max(1) as f64;
        let mut bars = Vec::with_capacity(values.len());
        for (n, (since, value)) in values.iter().enumerate() {
            let Some(value) = *value else { continue };
            // What happened once is seen beside what happened a thousand times.
            let height = if value == 0 { 0.0 } else { (value as f64 / most.max(1) as f64 * HEIGHT).max(2.0) };
            bars.push(Bar {
                x: format!("{:.2}", n as f64 * slot),
                y: format!("{:.2}", HEIGHT - height),
                height: format!("{height:.2}"),
                label: format!("{} UTC: {}", since.format(time_format), text(value)),
            });
        }
        let highest = values.iter().max_by_key(|(_, value)| *value).filter(|(_, value)| value.is_some_and(|v| v > 0));
        let mut summary = match kind {
            Kind::Events => format!("{title}: {} in all", text(total)),
            _ => format!("{title}: {} at last", text(total)),
        };
        if let Some((since, _)) = highest {
            let _ = write!(summary, ", at most {} ({} UTC)", text(most), since.format(time_format));
        }
        let bar_width = format!("{:.2}", (slot * 0.82).max(0.5));
        Self { title, tone, summary, total: text(total), most: text(most), bar_width, bars }
    }
}

/// 1234567 as `1,234,567`.
pub fn grouped(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = String::from(if value < 0 { "-" } else { "" });
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// In the unit that leaves three digits or so.
pub fn bytes(value: i64) -> String {
    let mut value = value as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{value:.0} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(values: &[Option<i64>]) -> Vec<(DateTime<Utc>, Option<i64>)> {
        let hour = |n: usize| DateTime::from_timestamp(n as i64 * 3600, 0).unwrap();
        values.iter().enumerate().map(|(n, value)| (hour(n), *value)).collect()
    }

    #[test]
    fn bars_are_as_high_as_their_values() {
        let chart = Chart::new("Logins", "good", Kind::Events, &hours(&[Some(0), Some(1000), Some(1), None]), "%H:%M");
        let heights: Vec<&str> = chart.bars.iter().map(|bar| bar.height.as_str()).collect();
        assert_eq!(heights, ["0.00", "100.00", "2.00"], "an unknown value has none");
        assert_eq!(chart.bars[1].x, "150.00");
        assert_eq!(chart.summary, "Logins: 1,001 in all, at most 1,000 (01:00 UTC)");
        let chart = Chart::new("Size", "good", Kind::Bytes, &hours(&[Some(5_000), Some(2_500_000)]), "%H:%M");
        assert_eq!((chart.total.as_str(), chart.bars[0].label.as_str()), ("2.5 MB", "00:00 UTC: 5.0 kB"));
        let nothing = Chart::new("Logins", "good", Kind::Events, &hours(&[Some(0), None]), "%H:%M");
        assert_eq!(nothing.summary, "Logins: 0 in all");
        assert!(Chart::new("Logins", "good", Kind::State, &[], "%H:%M").bars.is_empty());
    }

    #[test]
    fn figures_are_grouped() {
        let told: Vec<String> = [0, 999, 1000, 1_234_567, -1000].into_iter().map(grouped).collect();
        assert_eq!(told, ["0", "999", "1,000", "1,234,567", "-1,000"]);
    }
}
