//! What is measured, beside what people use today: run by `scripts/bench`. Figures are printed, not
//! asserted.
//!
//! A [`Subject`] is one question; it makes [`Table`]s. [`continuity`]: what clients feel of a
//! reload, of scaling, of an upgrade and of sudden deaths. [`handoff`]: short connections a second.
//! [`cost`]: processor time, beside that of [`bare`], which does the least that a server can do.
//! [`memory`]: what a connection takes. [`peers`]: the servers that people use. [`chart`]: the
//! picture of it.
//!
//! What the design wants to reach besides, each with its goal: [`sequencing`], [`delivery`],
//! [`reload`], [`start`], [`crowd`], [`master`], [`overload`]; what grows with what: [`growth`]; what
//! it takes that a message is checked: [`checks`]; what is compressed: [`compression`], and given
//! together: [`merging`]. They measure with [`gauge`], by clients that are [`plain`].

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value, json};

pub mod bare;
pub mod chart;
mod checks;
mod compression;
pub mod continuity;
pub mod cost;
mod crowd;
mod delivery;
mod flood;
mod gauge;
mod growth;
pub mod handoff;
pub mod held;
mod master;
pub mod memory;
mod merging;
mod messages;
mod overload;
pub mod peers;
mod plain;
mod publish;
mod pulse;
mod relay;
mod reload;
mod sequencing;
mod start;
mod visits;

/// One question, and who can be asked it.
pub struct Subject {
    pub name: &'static str,
    pub about: &'static str,
    /// Who baton can be measured against.
    pub peers: &'static [&'static str],
    /// `Err`: it could not be measured, and why.
    pub run: fn(&Options) -> Result<Vec<Table>, String>,
}

pub const SUBJECTS: [Subject; 16] = [
    continuity::SUBJECT,
    handoff::SUBJECT,
    cost::SUBJECT,
    cost::instructions::SUBJECT,
    memory::SUBJECT,
    sequencing::SUBJECT,
    delivery::SUBJECT,
    reload::SUBJECT,
    start::SUBJECT,
    crowd::SUBJECT,
    master::SUBJECT,
    overload::SUBJECT,
    growth::SUBJECT,
    checks::SUBJECT,
    compression::SUBJECT,
    merging::SUBJECT,
];

#[derive(Clone, Debug)]
pub struct Options {
    /// The peers that are wanted.
    pub against: Vec<String>,
    /// The loads that are wanted, of subjects that have some; none: all.
    pub loads: Vec<String>,
    pub connections: Option<usize>,
    pub workers: u32,
    pub rounds: u32,
    pub seconds: u64,
    pub seed: u64,
}

impl Options {
    #[must_use]
    pub fn connections(&self, usual: usize) -> usize {
        self.connections.unwrap_or(usual)
    }

    /// What is measured, once a round.
    pub fn measured<T, E: ToString>(
        &self,
        mut measure: impl FnMut() -> Result<T, E>,
    ) -> Result<Vec<T>, String> {
        let rounds = (0..self.rounds).map(|_| measure().map_err(|error| error.to_string()));
        rounds.collect()
    }

    #[must_use]
    pub fn wants(&self, peer: &str) -> bool {
        self.against.iter().any(|wanted| wanted == peer)
    }

    #[must_use]
    pub fn wants_load(&self, load: &str) -> bool {
        self.loads.is_empty() || self.loads.iter().any(|wanted| wanted == load)
    }
}

/// What people see, and what programs do.
#[derive(Clone, Debug)]
pub struct Cell {
    shown: String,
    value: Value,
}

impl Cell {
    pub fn text(text: impl Into<String>) -> Cell {
        let shown = text.into();
        let value = Value::from(shown.clone());
        Cell { shown, value }
    }

    pub fn count(count: u64) -> Cell {
        Cell {
            shown: count.to_string(),
            value: count.into(),
        }
    }

    pub fn number(number: f64, digits: usize) -> Cell {
        Cell {
            shown: format!("{number:.digits$}"),
            value: json!(number),
        }
    }

    pub fn millis(time: Duration) -> Cell {
        Cell::number(time.as_secs_f64() * 1e3, 1)
    }

    /// There is nothing to be said.
    #[must_use]
    pub fn none() -> Cell {
        Cell {
            shown: "-".to_owned(),
            value: Value::Null,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Table {
    title: String,
    columns: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    /// Sentences below it.
    notes: Vec<String>,
    /// What could not be measured, and why; the rest could.
    failures: Vec<String>,
}

impl Table {
    pub fn new(title: impl Into<String>, columns: &[&'static str]) -> Table {
        Table {
            title: title.into(),
            columns: columns.to_vec(),
            rows: Vec::new(),
            notes: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// A part could not be measured.
    pub fn fail(&mut self, reason: String) {
        eprintln!("{reason}");
        self.failures.push(reason);
    }

    /// All of it was measured.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.failures.is_empty()
    }

    pub fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// One cell for each column.
    pub fn push(&mut self, row: Vec<Cell>) {
        assert_eq!(row.len(), self.columns.len());
        self.rows.push(row);
    }

    #[must_use]
    pub fn json(&self) -> Value {
        let row = |row: &Vec<Cell>| {
            let cells = self.columns.iter().zip(row);
            let cells = cells.map(|(column, cell)| ((*column).to_owned(), cell.value.clone()));
            cells.collect::<Map<String, Value>>()
        };
        let rows = self.rows.iter().map(row).collect::<Vec<_>>();
        let notes: Vec<&String> = self.notes.iter().chain(&self.failures).collect();
        json!({ "title": self.title, "rows": rows, "notes": notes })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        let width = |column: usize| {
            let cells = self
                .rows
                .iter()
                .map(|row| row[column].shown.chars().count());
            cells
                .chain([self.columns[column].chars().count()])
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let heads = self
            .columns
            .iter()
            .map(|column| (*column).to_owned())
            .collect();
        let rows = self.rows.iter();
        let rows = rows.map(|row| row.iter().map(|cell| cell.shown.clone()).collect());
        for (number, row) in std::iter::once(heads).chain(rows).enumerate() {
            let row: Vec<String> = row;
            let mut line = String::from("  ");
            for (column, (text, width)) in row.iter().zip(&widths).enumerate() {
                // Numbers, and what stands above them, to the right.
                let is_text = self
                    .rows
                    .first()
                    .is_some_and(|row| row[column].value.is_string());
                line += &match is_text {
                    true => format!("{text:<width$}  "),
                    false => format!("{text:>width$}  "),
                };
            }
            writeln!(f, "{}", line.trim_end())?;
            if number == 0 {
                let all: usize = widths.iter().map(|width| width + 2).sum();
                writeln!(f, "  {}", "-".repeat(all - 2))?;
            }
        }
        self.notes
            .iter()
            .chain(&self.failures)
            .try_for_each(|note| writeln!(f, "  {note}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_for_people_and_for_programs() {
        let mut table = Table::new("title", &["who", "ms"]);
        table.push(vec![
            Cell::text("one"),
            Cell::millis(Duration::from_micros(1250)),
        ]);
        table.push(vec![Cell::text("another"), Cell::none()]);
        table.note("a note".to_owned());
        let shown =
            "title\n  who       ms\n  ------------\n  one      1.2\n  another    -\n  a note\n";
        assert_eq!(table.to_string(), shown);
        let json = json!({ "title": "title", "rows": [
            { "who": "one", "ms": 1.25 }, { "who": "another", "ms": null },
        ], "notes": ["a note"]});
        assert_eq!(table.json(), json);
    }
}
