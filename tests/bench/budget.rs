//! What was promised, beside what was measured.

use std::fmt;

/// A promise and its measurement.
struct Line {
    what: String,
    budget: String,
    measured: String,
    met: bool,
}

/// All of them, in the order in which they were measured.
#[derive(Default)]
pub struct Budgets(Vec<Line>);

impl Budgets {
    /// A measurement that must not be below the budget.
    pub fn at_least(&mut self, what: impl Into<String>, budget: f64, measured: f64) {
        self.add(what.into(), format!("≥ {budget:.2}"), format!("{measured:.2}"), measured >= budget);
    }

    /// One that must stay below it.
    pub fn below(&mut self, what: impl Into<String>, budget: f64, measured: f64, unit: &str) {
        self.add(what.into(), format!("< {budget} {unit}"), format!("{measured:.1} {unit}"), measured < budget);
    }

    fn add(&mut self, what: String, budget: String, measured: String, met: bool) {
        eprintln!("{}: {measured} ({budget})", what);
        self.0.push(Line { what, budget, measured, met });
    }
}

impl fmt::Display for Budgets {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{:<66} {:>12} {:>14}  met", "", "budget", "measured")?;
        for Line { what, budget, measured, met } in &self.0 {
            writeln!(out, "{what:<66} {budget:>12} {measured:>14}  {}", if *met { "yes" } else { "NO" })?;
        }
        Ok(())
    }
}
