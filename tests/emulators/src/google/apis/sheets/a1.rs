//! Ranges as people write them: `Sheet1!A1:B2`, `'My sheet'!A:B`, `A1`, `2:3`, `Sheet1`.

/// Rows and columns from 0, the end not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) top: usize,
    pub(super) left: usize,
    pub(super) bottom: usize,
    pub(super) right: usize,
}

impl Area {
    pub(super) fn rows(self) -> usize {
        self.bottom - self.top
    }

    pub(super) fn columns(self) -> usize {
        self.right - self.left
    }

    pub(super) fn is_cell(self) -> bool {
        self.rows() == 1 && self.columns() == 1
    }

    /// With the name of its sheet.
    pub(super) fn written(self, sheet: &str) -> String {
        let plain = |c: char| c.is_alphanumeric() || c == '_';
        let sheet = if sheet.chars().all(plain) && !sheet.starts_with(|c: char| c.is_ascii_digit())
        {
            sheet.to_owned()
        } else {
            format!("'{}'", sheet.replace('\'', "''"))
        };
        let first = format!("{sheet}!{}{}", letters(self.left), self.top + 1);
        if self.is_cell() {
            return first;
        }
        format!("{first}:{}{}", letters(self.right - 1), self.bottom)
    }
}

/// A column's name: A … Z, AA …
pub(super) fn letters(column: usize) -> String {
    let (mut left, mut name) = (column + 1, Vec::new());
    while left > 0 {
        left -= 1;
        name.push(char::from(b'A' + u8::try_from(left % 26).unwrap_or_default()));
        left /= 26;
    }
    name.iter().rev().collect()
}

/// The sheet that is named, if one is, and what is left.
pub(super) fn sheet(range: &str) -> (Option<String>, Option<&str>) {
    if let Some(quoted) = range.strip_prefix('\'') {
        let mut from = 0;
        while let Some(at) = quoted[from..].find('\'') {
            let at = from + at;
            if quoted[at + 1..].starts_with('\'') {
                from = at + 2;
                continue;
            }
            let name = quoted[..at].replace("''", "'");
            return (Some(name), quoted[at + 1..].strip_prefix('!'));
        }
    }
    match range.rsplit_once('!') {
        Some((name, cells)) => (Some(name.to_owned()), Some(cells)),
        None => (None, Some(range)),
    }
}

/// The cells that are named, on a sheet of this size, which they may exceed.
pub(super) fn cells(text: &str, rows: usize, columns: usize) -> Option<Area> {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    let (first, last) = (corner(first)?, corner(last)?);
    if !text.contains(':') && (first.0.is_none() || first.1.is_none()) {
        return None;
    }
    // From a cell down its column, or along its row; or whole rows or columns.
    let (top, left) = (first.0.unwrap_or(0), first.1.unwrap_or(0));
    let bottom = last.0.unwrap_or(rows.saturating_sub(1));
    let right = last.1.unwrap_or(columns.saturating_sub(1));
    Some(Area {
        top: top.min(bottom),
        left: left.min(right),
        bottom: top.max(bottom) + 1,
        right: left.max(right) + 1,
    })
}

/// Row and column, of which one may be missing.
fn corner(text: &str) -> Option<(Option<usize>, Option<usize>)> {
    let text = text.strip_prefix('$').unwrap_or(text);
    let digits = text.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (name, row) = text.split_at(digits);
    let row = row.strip_prefix('$').unwrap_or(row);
    if text.is_empty() || name.len() > 3 {
        return None;
    }
    let value = |letter: u8| usize::from(letter.to_ascii_uppercase() - b'A') + 1;
    let column = name.bytes().fold(0, |column, letter| column * 26 + value(letter)).checked_sub(1);
    if row.is_empty() {
        return Some((None, column));
    }
    let row: usize = row.parse().ok().filter(|row| (1..=10_000_000).contains(row))?;
    Some((Some(row - 1), column))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(text: &str) -> Option<(usize, usize, usize, usize)> {
        cells(text, 1000, 26).map(|a| (a.top, a.left, a.bottom, a.right))
    }

    #[test]
    fn ranges_are_read_as_people_write_them() {
        for (text, wanted) in [
            ("A1", (0, 0, 1, 1)),
            ("b2:A1", (0, 0, 2, 2)),
            ("$A$1:$B$2", (0, 0, 2, 2)),
            ("A:B", (0, 0, 1000, 2)),
            ("2:3", (1, 0, 3, 26)),
            ("C5:C", (4, 2, 1000, 3)),
            ("AA10", (9, 26, 10, 27)),
        ] {
            assert_eq!(area(text), Some(wanted), "{text}");
        }
        for text in ["", "A", "7", "A0", "A1:", "Sheet1", "A1B", "A-1"] {
            assert_eq!(area(text), None, "{text}");
        }
    }

    #[test]
    fn sheets_are_named_with_quotes_or_without() {
        assert_eq!(sheet("Sheet1!A1"), (Some("Sheet1".to_owned()), Some("A1")));
        assert_eq!(sheet("'It''s!'!A1"), (Some("It's!".to_owned()), Some("A1")));
        assert_eq!(sheet("'My sheet'"), (Some("My sheet".to_owned()), None));
        assert_eq!(sheet("A1"), (None, Some("A1")));
    }

    #[test]
    fn areas_are_written_as_they_are_read() {
        let area = Area { top: 0, left: 25, bottom: 2, right: 28 };
        assert_eq!(area.written("Sheet1"), "Sheet1!Z1:AB2");
        let cell = Area { top: 4, left: 0, bottom: 5, right: 1 };
        assert_eq!(cell.written("It's"), "'It''s'!A5");
        for column in [0, 25, 26, 51, 52, 701, 702] {
            let text = format!("{}1", letters(column));
            assert_eq!(cells(&text, 1, 1).map(|area| area.left), Some(column), "{text}");
        }
    }
}
