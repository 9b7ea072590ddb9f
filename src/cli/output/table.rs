//! Aligned columns of text.

use std::io::{self, Write};

use super::one_line;

/// On which side of its column a text stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Align {
    /// Texts.
    Left,
    /// Numbers and sizes.
    Right,
}

/// A table: a line of titles, and rows of as many cells.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: impl IntoIterator<Item = (&'static str, Align)>) -> Self {
        Table { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty, cells without a column are left out.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| one_line(&cell).into_owned()).collect());
    }

    /// Writes it, two spaces between columns, nothing at the ends of lines. Without rows there are no titles either.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let titles = self.columns.iter().map(|(title, _)| (*title).to_owned()).collect();
        let lines: Vec<&Vec<String>> = std::iter::once(&titles).chain(&self.rows).collect();
        let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..self.columns.len()).map(|column| width(column).unwrap_or(0)).collect();
        for line in &lines {
            let mut text = String::new();
            for (column, ((_, align), width)) in self.columns.iter().zip(&widths).enumerate() {
                let cell = line.get(column).map_or("", String::as_str);
                let gap = if column == 0 { "" } else { "  " };
                match align {
                    Align::Left => text.push_str(&format!("{gap}{cell:<width$}")),
                    Align::Right => text.push_str(&format!("{gap}{cell:>width$}")),
                }
            }
            writeln!(out, "{}", text.trim_end())?;
        }
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new([("id", Align::Left), ("size", Align::Right), ("note", Align::Left)]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        assert!(out.is_empty());
        table.row(["a".into(), "1.1 GB".into(), "first".into()]);
        table.row(["größer".into(), "2 kB".into()]);
        table.row(["x\ny".into(), "".into(), "z".into(), "left out".into()]);
        table.write(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "id        size  note\na       1.1 GB  first\ngrößer    2 kB\nx y             z\n");
    }
}
