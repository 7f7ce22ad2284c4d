//! What the database tells of itself for `/metrics`.

use super::{Db, named};
use crate::error::Problem;

/// A number, and what of.
pub struct Figure {
    /// What it is.
    pub name: String,
    /// Of which state, table or outcome.
    pub label: Option<String>,
    /// How much.
    pub value: f64,
}

impl Db {
    /// Figures, and nothing else: cheap, and of nobody.
    pub async fn service_figures(&self) -> Result<Vec<Figure>, Problem> {
        let rows = self.all("select figure, label, value from auth.service_figures()", &[]).await?;
        let read =
            |row| Ok(Figure { name: named(row, "figure")?, label: named(row, "label")?, value: named(row, "value")? });
        rows.iter().map(read).collect()
    }
}
