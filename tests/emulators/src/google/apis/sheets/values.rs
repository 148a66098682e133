//! How values go into cells, and how they are shown.

use serde_json::{Value, json};

use super::super::super::refusal::Refusal;
use super::super::call::Call;
use super::a1::Area;
use super::grid::Sheet;
use super::invalid;

pub(super) fn by_columns(dimension: Option<&str>) -> Result<bool, Refusal> {
    match dimension {
        None | Some("ROWS" | "DIMENSION_UNSPECIFIED") => Ok(false),
        Some("COLUMNS") => Ok(true),
        Some(other) => Err(invalid(format!("Invalid value for majorDimension: {other}"))),
    }
}

/// Rows for columns. What is missing is empty where it is shown, and left alone where it is
/// written; what is empty at the end of a column is not shown.
pub(super) fn turned(rows: &[Vec<Value>], shown: bool) -> Vec<Vec<Value>> {
    let width = rows.iter().map(Vec::len).max().unwrap_or(0);
    let missing = if shown { Value::from("") } else { Value::Null };
    let column = |at: usize| {
        let mut column: Vec<Value> =
            rows.iter().map(|row| row.get(at).unwrap_or(&missing).clone()).collect();
        while shown && column.last().is_some_and(|value| value == "") {
            column.pop();
        }
        column
    };
    (0..width).map(column).collect()
}

/// How values are shown.
pub(super) struct Shown {
    as_text: bool,
}

impl Shown {
    pub(super) fn read(call: &Call, name: &str) -> Result<Self, Refusal> {
        Self::named(call.parameter(name))
    }

    pub(super) fn named(option: Option<&str>) -> Result<Self, Refusal> {
        match option {
            None | Some("FORMATTED_VALUE") => Ok(Self { as_text: true }),
            Some("UNFORMATTED_VALUE" | "FORMULA") => Ok(Self { as_text: false }),
            Some(other) => Err(invalid(format!("Invalid value for a render option: {other}"))),
        }
    }

    pub(super) fn of(&self, rows: Vec<Vec<Value>>) -> Vec<Vec<Value>> {
        let text = |value: Value| match value {
            Value::Bool(true) => "TRUE".into(),
            Value::Bool(false) => "FALSE".into(),
            Value::Number(number) => number.to_string().into(),
            other => other,
        };
        if !self.as_text {
            return rows;
        }
        rows.into_iter().map(|row| row.into_iter().map(text).collect()).collect()
    }
}

/// How values are taken in, and whether they are told.
pub(super) struct Input {
    as_entered: bool,
    told: Option<Shown>,
}

impl Input {
    pub(super) fn read(call: &Call) -> Result<Self, Refusal> {
        let told = call.flag("includeValuesInResponse")?;
        let shown = Shown::read(call, "responseValueRenderOption")?;
        Self::named(call.parameter("valueInputOption"), told.then_some(shown))
    }

    pub(super) fn named(option: Option<&str>, told: Option<Shown>) -> Result<Self, Refusal> {
        match option {
            Some("RAW") => Ok(Self { as_entered: false, told }),
            Some("USER_ENTERED") => Ok(Self { as_entered: true, told }),
            _ => Err(invalid("'valueInputOption' is required but not specified")),
        }
    }

    /// The rows of a value range.
    pub(super) fn rows(&self, told: &Value, call: &Call) -> Result<Vec<Vec<Value>>, Refusal> {
        let mut rows = Vec::new();
        for row in told["values"].as_array().into_iter().flatten() {
            let row = row.as_array().ok_or_else(|| invalid("Invalid values: lists of lists"))?;
            let row: Result<Vec<Value>, Refusal> = row.iter().map(|v| self.cell(v, call)).collect();
            rows.push(row?);
        }
        if by_columns(told["majorDimension"].as_str())? {
            rows = turned(&rows, false);
        }
        Ok(rows)
    }

    fn cell(&self, value: &Value, call: &Call) -> Result<Value, Refusal> {
        match value {
            Value::Array(_) | Value::Object(_) => Err(invalid("Invalid values: no lists in cells")),
            Value::String(text) if self.as_entered => {
                if text.starts_with('=') {
                    return Err(call.unimplemented("a formula"));
                }
                Ok(entered(text))
            }
            other => Ok(other.clone()),
        }
    }

    pub(super) fn told(
        &self,
        id: &str,
        sheet: &Sheet,
        written: Area,
        rows: &[Vec<Value>],
    ) -> Value {
        let range = written.written(&sheet.title);
        let mut json = json!({"spreadsheetId": id, "updatedRange": range});
        let cells: usize = rows.iter().map(Vec::len).sum();
        if cells > 0 {
            json["updatedRows"] = written.rows().into();
            json["updatedColumns"] = written.columns().into();
            json["updatedCells"] = cells.into();
        }
        if let Some(shown) = &self.told {
            let values = shown.of(sheet.values(written));
            json["updatedData"] =
                json!({"range": range, "majorDimension": "ROWS", "values": values});
        }
        json
    }
}

/// What a person types: numbers and truth values are such.
fn entered(text: &str) -> Value {
    if let Some(text) = text.strip_prefix('\'') {
        return text.into();
    }
    let numeric = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    let whole = text.parse::<i64>().ok().map(Value::from);
    let broken = || text.parse::<f64>().ok().filter(|n| n.is_finite()).map(Value::from);
    if let Some(number) = whole.or_else(broken).filter(|_| numeric) {
        return number;
    }
    match text.to_ascii_uppercase().as_str() {
        "TRUE" => true.into(),
        "FALSE" => false.into(),
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_taken_as_a_person_means_it() {
        for (text, value) in [
            ("7", json!(7)),
            ("-1.5", json!(-1.5)),
            ("true", json!(true)),
            ("'7", json!("7")),
            ("7 days", json!("7 days")),
            ("inf", json!("inf")),
            ("+", json!("+")),
            ("", json!("")),
        ] {
            assert_eq!(entered(text), value, "{text}");
        }
    }

    #[test]
    fn columns_become_rows() {
        let rows = vec![vec![json!(1), json!(2)], vec![json!(3)]];
        assert_eq!(json!(turned(&rows, true)), json!([[1, 3], [2]]));
        assert_eq!(json!(turned(&rows, false)), json!([[1, 3], [2, null]]));
    }
}
