//! A sheet's cells.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::a1::Area;

/// What a new sheet has.
const ROWS: usize = 1000;
const COLUMNS: usize = 26;

/// A sheet.
#[derive(Clone, Debug)]
pub(super) struct Sheet {
    pub(super) id: i64,
    pub(super) title: String,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// What is not empty, by row and column.
    cells: BTreeMap<(usize, usize), Value>,
}

impl Sheet {
    pub(super) fn new(id: i64, title: String, rows: Option<usize>, columns: Option<usize>) -> Self {
        let (rows, columns) = (rows.unwrap_or(ROWS), columns.unwrap_or(COLUMNS));
        Self { id, title, rows, columns, cells: BTreeMap::new() }
    }

    pub(super) fn holds(&self, area: Area) -> bool {
        area.bottom <= self.rows && area.right <= self.columns
    }

    /// The values in an area by rows, without what is empty at the end of each and of all.
    pub(super) fn values(&self, area: Area) -> Vec<Vec<Value>> {
        let mut rows: Vec<Vec<Value>> = Vec::new();
        for ((row, column), value) in self.cells.range((area.top, 0)..(area.bottom, 0)) {
            if !(area.left..area.right).contains(column) {
                continue;
            }
            let (row, column) = (row - area.top, column - area.left);
            if rows.len() <= row {
                rows.resize(row + 1, Vec::new());
            }
            rows[row].resize(column, "".into());
            rows[row].push(value.clone());
        }
        rows
    }

    /// Writes rows from a cell on; the sheet grows where they need it. Null leaves a cell as it is.
    pub(super) fn write(&mut self, (top, left): (usize, usize), rows: &[Vec<Value>]) {
        for (row, values) in rows.iter().enumerate() {
            self.rows = self.rows.max(top + row + 1);
            self.columns = self.columns.max(left + values.len());
            for (column, value) in values.iter().enumerate() {
                let at = (top + row, left + column);
                if value == "" {
                    self.cells.remove(&at);
                } else if !value.is_null() {
                    self.cells.insert(at, value.clone());
                }
            }
        }
    }

    pub(super) fn clear(&mut self, area: Area) {
        self.cells.retain(|(row, column), _| {
            !((area.top..area.bottom).contains(row) && (area.left..area.right).contains(column))
        });
    }

    /// Moves everything from a row on so many rows down.
    pub(super) fn insert_rows(&mut self, from: usize, count: usize) {
        let moved = self.cells.split_off(&(from, 0));
        self.cells.extend(moved.into_iter().map(|((row, column), v)| ((row + count, column), v)));
        self.rows += count;
    }

    /// The table in an area: what touches the first cell of it that has something, edge by edge.
    pub(super) fn table(&self, area: Area) -> Option<Area> {
        let inside = |(row, column): (usize, usize)| {
            (area.top..area.bottom).contains(&row) && (area.left..area.right).contains(&column)
        };
        let (row, column) = *self.cells.keys().find(|at| inside(**at))?;
        let mut table = Area { top: row, left: column, bottom: row + 1, right: column + 1 };
        loop {
            let near = |(row, column): &&(usize, usize)| {
                (table.top.saturating_sub(1)..=table.bottom).contains(row)
                    && (table.left.saturating_sub(1)..=table.right).contains(column)
            };
            let grown = self.cells.keys().filter(near).fold(table, |grown, (row, column)| Area {
                top: grown.top.min(*row),
                left: grown.left.min(*column),
                bottom: grown.bottom.max(row + 1),
                right: grown.right.max(column + 1),
            });
            if grown == table {
                return Some(table);
            }
            table = grown;
        }
    }

    pub(super) fn to_json(&self, index: usize) -> Value {
        json!({"properties": {
            "sheetId": self.id,
            "title": self.title,
            "index": index,
            "sheetType": "GRID",
            "gridProperties": {"rowCount": self.rows, "columnCount": self.columns},
        }})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet(rows: &[&[&str]]) -> Sheet {
        let rows: Vec<Vec<Value>> =
            rows.iter().map(|row| row.iter().map(|text| (*text).into()).collect()).collect();
        let mut sheet = Sheet::new(0, "Sheet1".to_owned(), None, None);
        sheet.write((0, 0), &rows);
        sheet
    }

    const ALL: Area = Area { top: 0, left: 0, bottom: 1000, right: 26 };

    #[test]
    fn empty_ends_are_left_out() {
        let sheet = sheet(&[&["a", "", "c", ""], &[""], &["", "b"], &[]]);
        assert_eq!(json!(sheet.values(ALL)), json!([["a", "", "c"], [], ["", "b"]]));
        let part = Area { top: 2, left: 1, bottom: 3, right: 2 };
        assert_eq!(json!(sheet.values(part)), json!([["b"]]));
    }

    #[test]
    fn a_table_ends_where_nothing_touches_it() {
        let sheet = sheet(&[&["", ""], &["", "a", "b"], &["", "c"], &[], &["", "other"]]);
        let table = Area { top: 1, left: 1, bottom: 3, right: 3 };
        assert_eq!(sheet.table(ALL), Some(table));
        assert_eq!(sheet.table(Area { top: 0, left: 5, bottom: 9, right: 9 }), None);
    }

    #[test]
    fn rows_make_room() {
        let mut sheet = sheet(&[&["a"], &["b"]]);
        sheet.insert_rows(1, 2);
        assert_eq!(json!(sheet.values(ALL)), json!([["a"], [], [], ["b"]]));
        assert_eq!(sheet.rows, 1002);
        sheet.clear(Area { top: 0, left: 0, bottom: 2, right: 1 });
        assert_eq!(json!(sheet.values(ALL)), json!([[], [], [], ["b"]]));
    }
}
