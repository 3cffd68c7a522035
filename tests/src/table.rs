//! The table a person reads: sources down, destinations across, one mark a cell. Pure text.

use std::fmt::Write;

use crate::matrix::{CHECKS, Cell, Failure};

/// What the mark stands for, in lines.
pub const LEGEND: [&str; 2] = [
    "✔ = ping, ping of exactly the pods' MTU with don't-fragment, TCP and UDP with the payload compared",
    "    at both ends, and the source address that the other end sees, each over IPv4 and over IPv6",
];

/// Renders the table, a line a row. `cells` has a row for each of `rows`, a column for each of `columns`.
pub fn render(rows: &[&str], columns: &[&str], cells: &[Vec<Cell>]) -> String {
    let marks: Vec<Vec<String>> = cells.iter().map(|row| row.iter().map(mark).collect()).collect();
    let label = rows.iter().map(|name| width(name)).max().unwrap_or_default().max(width("from \\ to"));
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(index, name)| {
            marks.iter().map(|row| width(&row[index])).chain([width(name)]).max().unwrap_or_default()
        })
        .collect();
    let mut text = format!("{:label$} ", "from \\ to");
    for (name, width) in columns.iter().zip(&widths) {
        let _ = write!(text, "  {name:^width$}");
    }
    for (name, row) in rows.iter().zip(&marks) {
        let _ = write!(text, "\n{name:label$} ");
        for (mark, width) in row.iter().zip(&widths) {
            let _ = write!(text, "  {mark:^width$}");
        }
    }
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

fn mark(cell: &Cell) -> String {
    match cell {
        Cell::Blank => "·".to_owned(),
        Cell::Checked(failures) if failures.is_empty() => "✔".to_owned(),
        Cell::Checked(failures) => format!("✘{}/{CHECKS}", CHECKS.saturating_sub(failures.len())),
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// What did not hold, in reading order: source, destination, failure.
pub fn failures<'a>(
    rows: &'a [&'a str],
    columns: &'a [&'a str],
    cells: &'a [Vec<Cell>],
) -> Vec<(&'a str, &'a str, &'a Failure)> {
    let mut all = Vec::new();
    for (from, row) in rows.iter().zip(cells) {
        for (to, cell) in columns.iter().zip(row) {
            if let Cell::Checked(failures) = cell {
                all.extend(failures.iter().map(|failure| (*from, *to, failure)));
            }
        }
    }
    all
}

/// How many cells were checked.
pub fn checked(cells: &[Vec<Cell>]) -> usize {
    cells.iter().flatten().filter(|cell| matches!(cell, Cell::Checked(_))).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_stands_out_and_columns_line_up() {
        let failure = Failure { check: "tcp6".into(), expected: "a".into(), saw: "b".into() };
        let cells = vec![
            vec![Cell::Blank, Cell::Checked(vec![])],
            vec![Cell::Checked(vec![failure.clone(), failure.clone()]), Cell::Blank],
        ];
        let (rows, columns) = (["node1", "1a"], ["node1", "1a"]);
        let lines = ["from \\ to   node1  1a", "node1         ·    ✔", "1a          ✘8/10  ·"];
        assert_eq!(render(&rows, &columns, &cells), lines.join("\n"));
        assert_eq!(failures(&rows, &columns, &cells), [("1a", "node1", &failure), ("1a", "node1", &failure)]);
        assert_eq!(checked(&cells), 2);
    }
}
