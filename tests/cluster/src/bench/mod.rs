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

mod schedule;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// 1,000 BackupJobs due in one minute beside 1,000 CronJobs, and memory for 10,000
    Schedule,
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

/// What was measured: a title, names of columns, rows of cells.
pub struct Table {
    /// What it is about, with the conditions.
    pub title: String,
    /// Names of the columns; the first is of what a row is about.
    pub columns: Vec<&'static str>,
    /// One cell for each column.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    fn text(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
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
        lines.extend(self.rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
        lines.join("\n")
    }

    fn json(&self) -> Value {
        let row = |row: &Vec<String>| -> Value {
            self.columns.iter().zip(row).map(|(name, cell)| ((*name).to_owned(), json!(cell))).collect()
        };
        json!({"title": self.title, "rows": self.rows.iter().map(row).collect::<Vec<_>>()})
    }
}

/// Brings the cluster up where it is not, with the operator as it is released, and measures.
pub fn bench(place: &Place, report: &Report, part: Part, output: Output, debug: bool) -> Result<()> {
    up::up(place, report, false)?;
    operator_image::refresh(place, report, !debug)?;
    let variables = status::variables(place)?;
    let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
    let mut cluster = Cluster::from_variables(find)?;
    cluster.ubo = operator_image::binary(place, !debug);
    let tables = netns::inside(place, || {
        let example = Example::new(&cluster);
        report.step("the operator, installed and started anew", || {
            example.install()?;
            example.restart_operator()
        })?;
        match part {
            Part::Schedule => schedule::measure(&cluster, report),
        }
    })?;
    match output {
        Output::Text => println!("{}", tables.iter().map(Table::text).collect::<Vec<_>>().join("\n\n")),
        Output::Json => println!("{:#}", json!(tables.iter().map(Table::json).collect::<Vec<_>>())),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_its_json_has_names() {
        let table = Table {
            title: "lateness".into(),
            columns: vec!["who", "p50"],
            rows: vec![vec!["ours".into(), "0.1 s".into()], vec!["CronJobs".into(), "58.0 s".into()]],
        };
        assert_eq!(table.text(), "lateness\nwho          p50\nours       0.1 s\nCronJobs  58.0 s");
        assert_eq!(table.json()["rows"][1], json!({"who": "CronJobs", "p50": "58.0 s"}));
    }
}
