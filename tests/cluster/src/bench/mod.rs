//! **O** `cargo rig bench`: what the operator is held to (`product.md` section 8), measured beside what others do, in the
//! same cluster and the same run. Each part is a file with a function that gives tables.

use crate::place::Place;
use crate::report::Report;
use crate::{netns, operator_image, status, up};
use anyhow::Result;
use clap::ValueEnum;
use rig::Cluster;
use rig::example::Example;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

mod copy;
mod kubectl;
mod operator;
mod scene;
mod schedule;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// 1,000 BackupJobs due in one minute beside 1,000 CronJobs, and memory for 10,000
    Schedule,
    /// A copy by exec beside `kubectl exec … tar c`, and memory for one run of 5 GiB and for four at once
    Copy,
}

/// How it is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Text,
    /// One JSON document
    Json,
}

/// One thing in a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// What a row is about.
    Words(String),
    /// How many.
    Count(u64),
    /// How much, in this unit, which is the same in all of a column.
    Amount {
        /// As it was measured.
        value: f64,
        /// So many digits behind the point are for people.
        digits: usize,
        /// `s`, `MiB`; may be empty.
        unit: &'static str,
    },
}

impl Cell {
    fn seconds(value: f64) -> Self {
        Self::Amount { value, digits: 2, unit: "s" }
    }

    fn mib(bytes: u64) -> Self {
        Self::Amount { value: in_mib(bytes), digits: 1, unit: "MiB" }
    }

    fn json(&self) -> Value {
        match self {
            Self::Words(words) => json!(words),
            Self::Count(count) => json!(count),
            Self::Amount { value, .. } => json!(value),
        }
    }
}

impl From<&str> for Cell {
    fn from(words: &str) -> Self {
        Self::Words(words.to_owned())
    }
}

impl Display for Cell {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(words) => f.write_str(words),
            Self::Count(count) => write!(f, "{count}"),
            Self::Amount { value, digits, unit: "" } => write!(f, "{value:.digits$}"),
            Self::Amount { value, digits, unit } => write!(f, "{value:.digits$} {unit}"),
        }
    }
}

/// What was measured: a title, names of columns, rows of cells.
pub struct Table {
    /// What it is about, with the conditions.
    pub title: String,
    /// Names of the columns; the first is of what a row is about.
    pub columns: Vec<&'static str>,
    /// One cell for each column.
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    fn text(&self) -> String {
        let rows: Vec<Vec<String>> = self.rows.iter().map(|row| row.iter().map(Cell::to_string).collect()).collect();
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain(self.columns.get(column).map(|name| name.chars().count())).max().unwrap_or(0)
        };
        let line = |cells: Vec<&str>| {
            let padded: Vec<_> = cells
                .iter()
                .enumerate()
                .map(|(column, cell)| {
                    let width = width(column);
                    if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                })
                .collect();
            padded.join("  ").trim_end().to_owned()
        };
        let mut lines = vec![self.title.clone(), line(self.columns.clone())];
        lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
        lines.join("\n")
    }

    fn json(&self) -> Value {
        let row = |row: &Vec<Cell>| -> Value {
            self.columns.iter().zip(row).map(|(name, cell)| ((*name).to_owned(), cell.json())).collect()
        };
        let cells = self.rows.iter().flat_map(|row| self.columns.iter().zip(row));
        let units: BTreeMap<&str, &str> = cells
            .filter_map(|(name, cell)| match cell {
                Cell::Amount { unit, .. } if !unit.is_empty() => Some((*name, *unit)),
                _ => None,
            })
            .collect();
        json!({"title": self.title, "units": units, "rows": self.rows.iter().map(row).collect::<Vec<_>>()})
    }
}

/// What the operator is held to.
pub struct Goal {
    /// Of what.
    what: String,
    /// What came out.
    measured: f64,
    /// The most that it may be.
    limit: f64,
    /// Of both numbers.
    unit: &'static str,
}

impl Goal {
    fn new(what: &str, measured: f64, limit: f64, unit: &'static str) -> Self {
        Self { what: what.to_owned(), measured, limit, unit }
    }

    /// What is not a number is not met.
    fn is_met(&self) -> bool {
        self.measured <= self.limit
    }

    fn row(&self) -> Vec<Cell> {
        let number = |value: f64| Cell::Amount { value, digits: 2, unit: self.unit };
        let verdict = if self.is_met() { "ok" } else { "MISSED" };
        let limit = format!("<= {}", number(self.limit));
        vec![Cell::Words(self.what.clone()), number(self.measured), Cell::Words(limit), verdict.into()]
    }

    fn json(&self) -> Value {
        json!({"what": self.what, "measured": self.measured, "limit": self.limit, "unit": self.unit, "met": self.is_met()})
    }
}

/// All that a part gives.
pub struct Measured {
    tables: Vec<Table>,
    goals: Vec<Goal>,
}

impl Measured {
    fn text(&self) -> String {
        let goals = Table {
            title: "goals".into(),
            columns: vec!["what", "measured", "goal", ""],
            rows: self.goals.iter().map(Goal::row).collect(),
        };
        self.tables.iter().chain([&goals]).map(Table::text).collect::<Vec<_>>().join("\n\n")
    }

    fn json(&self) -> Value {
        let tables: Vec<_> = self.tables.iter().map(Table::json).collect();
        json!({"tables": tables, "goals": self.goals.iter().map(Goal::json).collect::<Vec<_>>()})
    }
}

fn in_mib(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "to read; exact up to 8 PiB")]
    let bytes = bytes as f64;
    bytes / f64::from(1 << 20)
}

/// Brings the cluster up where it is not, with the operator as it is released, and measures. Whether all goals were met.
/// No part means each of them.
pub fn bench(place: &Place, report: &Report, part: Option<Part>, output: Output, debug: bool) -> Result<bool> {
    up::up(place, report, false)?;
    operator_image::refresh(place, report, !debug)?;
    let variables = status::variables(place)?;
    let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
    let mut cluster = Cluster::from_variables(find)?;
    cluster.ubo = operator_image::binary(place, !debug);
    let parts = part.map_or_else(|| Part::value_variants().to_vec(), |part| vec![part]);
    let measured = netns::inside(place, || {
        let example = Example::new(&cluster);
        let measure = |part: &Part| {
            report.step("the operator, installed and started anew", || {
                example.install()?;
                example.restart_operator()
            })?;
            match part {
                Part::Schedule => schedule::measure(place, &cluster, report),
                Part::Copy => copy::measure(&cluster, report),
            }
        };
        parts.iter().map(measure).collect::<Result<Vec<_>>>()
    })?;
    match output {
        Output::Text => println!("{}", measured.iter().map(Measured::text).collect::<Vec<_>>().join("\n\n")),
        Output::Json => println!("{:#}", json!(measured.iter().map(Measured::json).collect::<Vec<_>>())),
    }
    Ok(measured.iter().flat_map(|measured| &measured.goals).all(Goal::is_met))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_its_json_has_names() {
        let table = Table {
            title: "lateness".into(),
            columns: vec!["who", "p50"],
            rows: vec![vec!["ours".into(), Cell::seconds(0.25)], vec!["CronJobs".into(), Cell::seconds(58.0)]],
        };
        assert_eq!(table.text(), "lateness\nwho           p50\nours       0.25 s\nCronJobs  58.00 s");
        assert_eq!(table.json()["rows"][0], json!({"who": "ours", "p50": 0.25}));
        assert_eq!(table.json()["units"], json!({"p50": "s"}));
    }

    #[test]
    fn a_goal_that_is_missed_is_said() {
        let met = Goal::new("a ratio", 0.98, 1.0, "");
        let row = |goal: &Goal| goal.row().iter().map(Cell::to_string).collect::<Vec<_>>();
        assert_eq!(row(&met), ["a ratio", "0.98", "<= 1.00", "ok"]);
        assert!(met.is_met() && Goal::new("just so", 64.0, 64.0, "MiB").is_met());
        let missed = Goal::new("memory", 64.5, 64.0, "MiB");
        assert_eq!(row(&missed), ["memory", "64.50 MiB", "<= 64.00 MiB", "MISSED"]);
        assert!(!Goal::new("nothing came", f64::NAN, 1.0, "").is_met());
        let measured = Measured { tables: Vec::new(), goals: vec![met, missed] };
        assert_eq!(measured.json()["goals"][1]["met"], json!(false));
        assert!(measured.text().contains("MISSED"));
    }
}
