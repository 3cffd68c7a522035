//! A row of the table: what was measured of us, of a peer and of the floor, and which targets it meets. Pure.

use serde_json::{Value, json};

use crate::stats::Summary;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds, printed in the unit that fits.
    Time,
    /// Something a second.
    PerSecond,
    /// Bits a second.
    BitsPerSecond,
    /// Bytes.
    Bytes,
    /// Pieces.
    Count,
    /// A part of one core.
    CpuPart,
}

impl Unit {
    /// The value as a person reads it.
    pub fn text(self, value: f64) -> String {
        match self {
            Unit::Time if value < 1e-3 => format!("{:.0} µs", value * 1e6),
            Unit::Time if value < 1.0 => format!("{:.2} ms", value * 1e3),
            Unit::Time => format!("{value:.2} s"),
            Unit::PerSecond => format!("{value:.0}/s"),
            Unit::BitsPerSecond => format!("{:.1} Gbit/s", value / 1e9),
            Unit::Bytes if value < 1e6 => format!("{:.0} kB", value / 1e3),
            Unit::Bytes => format!("{:.2} MB", value / 1e6),
            Unit::Count => format!("{value:.0}"),
            Unit::CpuPart => format!("{:.3} %", value * 1e2),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Unit::Time => "seconds",
            Unit::PerSecond => "per second",
            Unit::BitsPerSecond => "bits per second",
            Unit::Bytes => "bytes",
            Unit::Count => "count",
            Unit::CpuPart => "part of one core",
        }
    }
}

/// Somebody's figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Whose.
    pub who: String,
    /// Of how many samples, and how they spread.
    pub summary: Summary,
}

impl Figure {
    /// A figure of `who`.
    pub fn new(who: &str, summary: Summary) -> Figure {
        Figure { who: who.to_owned(), summary }
    }
}

/// One promise and what was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// As it is written: `≤ 0.22 × peer`.
    pub text: String,
    /// What was found, in the same terms.
    pub found: f64,
    /// Whether it holds.
    pub met: bool,
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What was done.
    pub what: String,
    /// What the figures count.
    pub unit: Unit,
    /// Ours.
    pub ours: Figure,
    /// The peer's, where there is one.
    pub peer: Option<Figure>,
    /// The floor, where there is one.
    pub floor: Option<Figure>,
    /// The promises.
    pub targets: Vec<Target>,
    /// Print the 99th percentile beside the median, not the 90th.
    pub tail: bool,
    /// The ratios of turns that were taken one after the other: of their medians and of their 99th percentiles.
    by_turns: Option<(f64, f64)>,
}

impl Row {
    /// A row with our figure alone.
    pub fn new(what: impl Into<String>, unit: Unit, ours: Summary) -> Row {
        let ours = Figure::new("ferrule", ours);
        Row {
            what: what.into(),
            unit,
            ours,
            peer: None,
            floor: None,
            targets: Vec::new(),
            tail: false,
            by_turns: None,
        }
    }

    /// With a peer's.
    pub fn peer(mut self, who: &str, summary: Summary) -> Row {
        self.peer = Some(Figure::new(who, summary));
        self
    }

    /// With a floor.
    pub fn floor(mut self, who: &str, summary: Summary) -> Row {
        self.floor = Some(Figure::new(who, summary));
        self
    }

    /// Shows the 99th percentile.
    pub fn with_tail(mut self) -> Row {
        self.tail = true;
        self
    }

    /// Compares each turn of ours with the peer's, and takes the median of these ratios: what the machine did in the course of
    /// the turns is in both.
    pub fn by_turns(mut self, ours: &[Vec<f64>], peer: &[Vec<f64>]) -> Row {
        let summaries = |turns: &[Vec<f64>]| turns.iter().filter_map(|turn| Summary::of(turn)).collect();
        let (ours, peer): (Vec<_>, Vec<_>) = (summaries(ours), summaries(peer));
        let ratio = |of: fn(&Summary) -> f64| {
            let ratios: Vec<f64> = ours.iter().zip(&peer).map(|(ours, peer)| of(ours) / of(peer)).collect();
            Summary::of(&ratios).map(|summary| summary.p50)
        };
        self.by_turns = ratio(|turn| turn.p50).zip(ratio(|turn| turn.p99));
        self
    }

    /// Our median over the peer's, or the ratio of [`Row::by_turns`].
    pub fn ratio(&self) -> Option<f64> {
        if let Some((ratio, _)) = self.by_turns {
            return Some(ratio);
        }
        self.peer.as_ref().map(|peer| self.ours.summary.p50 / peer.summary.p50)
    }

    /// Promises at most `factor` times the peer's median.
    pub fn at_most_peer(self, factor: f64) -> Row {
        let ratio = self.ratio();
        self.against("peer", ratio, factor, true)
    }

    /// Promises a 99th percentile of at most `factor` times the peer's in turns taken one after the other.
    pub fn p99_at_most_peer(self, factor: f64) -> Row {
        let ratio = self.by_turns.map(|(_, ratio)| ratio);
        self.against("peer's p99", ratio, factor, true)
    }

    /// Promises at least `factor` times the peer's median.
    pub fn at_least_peer(self, factor: f64) -> Row {
        let ratio = self.ratio();
        self.against("peer", ratio, factor, false)
    }

    /// Promises at most `factor` times the floor's median.
    pub fn at_most_floor(self, factor: f64) -> Row {
        let ratio = self.floor.as_ref().map(|floor| self.ours.summary.p50 / floor.summary.p50);
        self.against("floor", ratio, factor, true)
    }

    fn against(self, whom: &str, ratio: Option<f64>, factor: f64, at_most: bool) -> Row {
        let sign = if at_most { '≤' } else { '≥' };
        // What was not measured cannot be met.
        let found = ratio.unwrap_or(f64::NAN);
        self.target(
            format!("{sign} {factor} × {whom}"),
            found,
            if at_most { found <= factor } else { found >= factor },
        )
    }

    /// Promises a median of at most `limit`.
    pub fn at_most(self, limit: f64) -> Row {
        let found = self.ours.summary.p50;
        let text = format!("≤ {}", self.unit.text(limit));
        self.target(text, found, found <= limit)
    }

    /// Promises a 99th percentile of at most `limit`.
    pub fn p99_at_most(self, limit: f64) -> Row {
        let found = self.ours.summary.p99;
        let text = format!("p99 ≤ {}", self.unit.text(limit));
        self.target(text, found, found <= limit)
    }

    /// Promises a median of at least `limit`.
    pub fn at_least(self, limit: f64) -> Row {
        let found = self.ours.summary.p50;
        let text = format!("≥ {}", self.unit.text(limit));
        self.target(text, found, found >= limit)
    }

    /// A promise in words of its own.
    pub fn target(mut self, text: String, found: f64, met: bool) -> Row {
        self.targets.push(Target { text, found, met });
        self
    }

    /// The row as JSON.
    pub fn json(&self) -> Value {
        let figure = |figure: &Figure| {
            let Summary { count, min, p50, p90, p99, max } = figure.summary;
            json!({ "who": figure.who, "samples": count, "min": min, "p50": p50, "p90": p90, "p99": p99, "max": max })
        };
        let targets = self
            .targets
            .iter()
            .map(|target| json!({ "target": target.text, "found": target.found, "met": target.met }));
        json!({
            "what": self.what,
            "unit": self.unit.name(),
            "ours": figure(&self.ours),
            "peer": self.peer.as_ref().map(figure),
            "ratio": self.ratio(),
            "floor": self.floor.as_ref().map(figure),
            "targets": targets.collect::<Vec<_>>(),
        })
    }

    /// The row's lines in the table: one for each target, and at least one.
    pub fn cells(&self) -> Vec<[String; 7]> {
        let figure =
            |figure: Option<&Figure>| figure.map_or_else(|| "-".to_owned(), |figure| self.figure(figure));
        let ratio = self.ratio().map_or_else(|| "-".to_owned(), times);
        let head = [
            self.what.clone(),
            figure(Some(&self.ours)),
            figure(self.peer.as_ref()),
            ratio,
            figure(self.floor.as_ref()),
        ];
        let blank = || [const { String::new() }; 5];
        let mut lines: Vec<_> = self.targets.iter().map(Target::cells).collect();
        if lines.is_empty() {
            lines.push(["-".to_owned(), String::new()]);
        }
        let heads = std::iter::once(head).chain(std::iter::repeat_with(blank));
        heads.zip(lines).map(|([a, b, c, d, e], [f, g])| [a, b, c, d, e, f, g]).collect()
    }

    fn figure(&self, figure: &Figure) -> String {
        let Summary { count, p50, p90, p99, .. } = figure.summary;
        let median = self.unit.text(p50);
        let whose = if ["ferrule", "floor"].contains(&figure.who.as_str()) {
            String::new()
        } else {
            format!(" {}", figure.who)
        };
        match count {
            1 => format!("{median}{whose}"),
            _ if self.tail => format!("{median} (p99 {}){whose}", self.unit.text(p99)),
            _ => format!("{median} (p90 {}){whose}", self.unit.text(p90)),
        }
    }
}

impl Target {
    fn cells(&self) -> [String; 2] {
        let verdict = if self.met { "yes" } else { "NO" };
        let found =
            if self.text.contains('×') { format!(" ({})", times(self.found)) } else { String::new() };
        [self.text.clone(), format!("{verdict}{found}")]
    }
}

/// A ratio with two digits that say something.
fn times(ratio: f64) -> String {
    if ratio < 0.1 { format!("{ratio:.3}") } else { format!("{ratio:.2}") }
}

/// The columns' names.
pub const HEAD: [&str; 7] = ["what", "ours", "peer", "ratio", "floor", "target", "met"];

/// The table as Markdown that lines up.
pub fn table(rows: &[Row]) -> String {
    let lines: Vec<[String; 7]> = rows.iter().flat_map(Row::cells).collect();
    let width = |text: &str| text.chars().count();
    let widths: [usize; 7] = std::array::from_fn(|column| {
        let cells = lines.iter().map(|line| width(&line[column]));
        cells.chain([width(HEAD[column])]).max().unwrap_or_default()
    });
    let line = |cells: [&str; 7]| {
        let padded = cells
            .iter()
            .zip(widths)
            .map(|(cell, wide)| format!(" {cell}{} ", " ".repeat(wide - width(cell))));
        format!("|{}|\n", padded.collect::<Vec<_>>().join("|"))
    };
    let rule = widths.map(|wide| "-".repeat(wide));
    let mut text = line(HEAD) + &line(std::array::from_fn(|column| rule[column].as_str()));
    for cells in &lines {
        text += &line(std::array::from_fn(|column| cells[column].as_str()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: f64, peer: f64) -> Row {
        Row::new("x", Unit::Time, Summary::single(ours)).peer("ptp", Summary::single(peer))
    }

    #[test]
    fn a_target_is_met_at_its_limit_and_not_beyond() {
        assert!(row(0.2, 1.0).at_most_peer(0.2).targets[0].met);
        assert!(!row(0.21, 1.0).at_most_peer(0.2).targets[0].met);
        assert!(row(4.0, 1.0).at_least_peer(4.0).targets[0].met);
        assert!(!row(3.9, 1.0).at_least_peer(4.0).targets[0].met);
        assert!(!row(2.0, 1.0).at_most(1.9).targets[0].met);
    }

    #[test]
    fn a_pace_that_changes_from_turn_to_turn_is_not_in_the_ratio_of_the_turns() {
        let ours = [vec![0.9], vec![0.9, 1.8, 2.5], vec![9.0]];
        let peer = [vec![1.0], vec![1.0, 2.0, 2.5], vec![10.0]];
        let row = row(5.0, 1.0).by_turns(&ours, &peer).at_most_peer(0.9).p99_at_most_peer(0.9);
        assert_eq!(row.ratio(), Some(0.9));
        assert!(row.targets.iter().all(|target| target.met), "{row:?}");
        let tail_is_longer = row.by_turns(&[vec![1.0, 1.0, 2.0]], &[vec![1.0]]).p99_at_most_peer(1.0);
        assert_eq!(tail_is_longer.targets.last().map(|target| target.met), Some(false));
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        assert!(!row(1.0, 1.0).at_most_floor(9.0).targets[0].met);
    }

    #[test]
    fn every_target_has_a_line_and_the_columns_line_up() {
        let text = table(&[row(0.002, 0.01).at_most_peer(0.22).at_most(0.001), row(1.0, 2.0)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2 + 2 + 1);
        let widths: Vec<usize> = lines.iter().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{text}");
        assert!(lines[2].contains("2.00 ms") && lines[2].contains("yes (0.20)"), "{text}");
        assert!(lines[3].contains("NO"), "{text}");
    }
}
