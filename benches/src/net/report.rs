//! The table.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::load::Load;
use super::side::Card;
use crate::counts::Counts;
use crate::stats;

/// Who the others are compared with.
const OURS: &str = "vmrun";

#[derive(Debug, Default)]
pub(super) struct Report {
    /// What the names of its figures begin with.
    prefix: &'static str,
    rows: Vec<Row>,
    /// `name`, value, unit, in the order in which they came.
    figures: Vec<(String, f64, String)>,
}

#[derive(Debug)]
struct Row {
    name: &'static str,
    unit: &'static str,
    work: &'static str,
    sides: Vec<(&'static str, Vec<f64>)>,
    counts: BTreeMap<&'static str, [f64; 3]>,
}

impl Report {
    pub(super) fn new(prefix: &'static str) -> Self {
        Self { prefix, ..Self::default() }
    }

    /// What a side has carried in a round.
    pub(super) fn add(&mut self, load: &Load, side: &'static str, rate: f64) {
        let sides = &mut self.row(load).sides;
        match sides.iter_mut().find(|(name, _)| *name == side) {
            Some((_, rates)) => rates.push(rate),
            None => sides.push((side, vec![rate])),
        }
    }

    /// What `work` units of it have cost a side.
    #[allow(clippy::cast_precision_loss, reason = "a figure for a human")]
    pub(super) fn count(&mut self, load: &Load, side: &'static str, counts: &Counts, work: f64) {
        let each = [counts.exits, counts.interrupts, counts.calls].map(|count| count as f64 / work);
        self.row(load).counts.insert(side, each);
    }

    /// What our card has counted for them.
    #[allow(clippy::cast_precision_loss, reason = "a figure for a human")]
    pub(super) fn count_card(&mut self, load: &Load, before: Card, after: Card, work: f64) {
        for (what, before, after) in
            [("kicks", before[0], after[0]), ("card_interrupts", before[1], after[1])]
        {
            let each = after.saturating_sub(before) as f64 / work;
            self.figure(&format!("{}_{OURS}_{what}", load.name), each, &format!("per {}", load.work));
        }
    }

    pub(super) fn figure(&mut self, name: &str, value: f64, unit: &str) {
        self.figures.push((format!("{}{name}", self.prefix), value, unit.to_owned()));
    }

    /// The median of many, and what a half of them lies between.
    pub(super) fn quartiles(&mut self, name: &str, mut values: Vec<f64>, unit: &str) {
        values.sort_by(f64::total_cmp);
        let at = |quarter: usize| values.get(values.len().saturating_sub(1) * quarter / 4).copied();
        for (suffix, quarter) in [("_first_quartile", 1), ("_third_quartile", 3)] {
            self.figure(&format!("{name}{suffix}"), at(quarter).unwrap_or(f64::NAN), unit);
        }
        self.figure(name, stats::median(&values), unit);
    }

    fn row(&mut self, load: &Load) -> &mut Row {
        let found = self.rows.iter().position(|row| row.name == load.name);
        let at = found.unwrap_or_else(|| {
            let Load { name, unit, work, .. } = *load;
            self.rows.push(Row { name, unit, work, sides: Vec::new(), counts: BTreeMap::new() });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    pub(super) fn print(&self) {
        for row in &self.rows {
            for (side, rates) in &row.sides {
                println!("{}_{side}: {:.1} {}", row.name, stats::median(rates), row.unit);
            }
        }
        for row in &self.rows {
            for (side, [exits, interrupts, calls]) in &row.counts {
                let Row { name, work, .. } = row;
                println!("{name}_{side}_exits: {exits:.2} per {work}");
                println!("{name}_{side}_interrupts: {interrupts:.2} per {work}");
                println!("{name}_{side}_calls: {calls:.2} per {work}");
            }
        }
        for (name, value, unit) in &self.figures {
            println!("{name}: {value:.3} {unit}");
        }
        for row in &self.rows {
            for (side, ratio) in row.ratios() {
                println!("{}_vs_{side}: {ratio:.2} ratio", row.name);
            }
        }
        eprint!("{}", self.table());
    }

    /// For people: the ratios, and the exits of both sides.
    fn table(&self) -> String {
        let mut table = format!("\n{:10} {:>10} {:14}", "", OURS, "");
        let sides: Vec<_> = self
            .rows
            .first()
            .map(|row| row.ratios().into_iter().map(|(side, _)| side).collect())
            .unwrap_or_default();
        sides.iter().for_each(|side| table += &format!(" {:>13}", format!("/ {side}")));
        table += "   exits (of vmrun, QEMU)\n";
        for row in &self.rows {
            let ours = row
                .sides
                .iter()
                .find(|(side, _)| *side == OURS)
                .map_or(f64::NAN, |(_, rates)| stats::median(rates));
            table += &format!("{:10} {ours:>10.1} {:14}", row.name, row.unit);
            row.ratios().iter().for_each(|(_, ratio)| table += &format!(" {ratio:>13.2}"));
            let exits = |side| row.counts.get(side).map_or(f64::NAN, |counts| counts[0]);
            table += &format!("   {:.2}, {:.2} per {}\n", exits(OURS), exits("qemu"), row.work);
        }
        table
    }

    pub(super) fn save(&self, file: &Path) -> Result<(), Box<dyn Error>> {
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        let figures: Vec<Value> = self
            .figures
            .iter()
            .map(|(name, value, unit)| json!({"name": name, "value": value, "unit": unit}))
            .collect();
        let all = json!({"loads": rows, "figures": figures});
        Ok(fs::write(file, serde_json::to_string_pretty(&all)? + "\n")?)
    }
}

impl Row {
    /// Ours against each other side: the median of the rounds' ratios, since the sides of a round had the
    /// same neighbours on the machine.
    fn ratios(&self) -> Vec<(&'static str, f64)> {
        let Some((_, ours)) = self.sides.iter().find(|(side, _)| *side == OURS) else { return Vec::new() };
        let others = self.sides.iter().filter(|(side, _)| *side != OURS);
        others
            .map(|(side, rates)| {
                let ratios: Vec<f64> = ours.iter().zip(rates).map(|(ours, theirs)| ours / theirs).collect();
                (*side, stats::median(&ratios))
            })
            .collect()
    }

    fn json(&self) -> Value {
        let sides = self.sides.iter().map(|(side, rates)| ((*side).to_owned(), json!(rates)));
        let counts = self.counts.iter().map(|(side, [exits, interrupts, calls])| {
            ((*side).to_owned(), json!({"exits": exits, "interrupts": interrupts, "calls": calls}))
        });
        let ratios = self.ratios().into_iter().map(|(side, ratio)| (side.to_owned(), json!(ratio)));
        json!({
            "name": self.name, "unit": self.unit, "rates": Value::Object(sides.collect()),
            "per": self.work, "counts": Value::Object(counts.collect()), "ratios": Value::Object(ratios.collect()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::LOADS;
    use super::*;

    #[test]
    fn ratios_are_those_of_the_rounds() {
        let mut report = Report::default();
        for (ours, theirs) in [(10.0, 10.0), (30.0, 20.0), (1.0, 0.1)] {
            report.add(&LOADS[0], "vmrun", ours);
            report.add(&LOADS[0], "crun", theirs);
        }
        assert_eq!(report.rows[0].ratios(), [("crun", 1.5)]);
        assert_eq!(report.rows.len(), 1);
    }
}
