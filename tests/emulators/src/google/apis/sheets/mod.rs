//! Sheets: spreadsheets, and the values in their cells. Nothing is calculated.

mod a1;
mod grid;
mod values;

use std::collections::HashMap;

use http::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::super::core::Core;
use super::super::refusal::Refusal;
use super::call::{Answer, Call, Implemented, Resource, Work};
use a1::Area;
use grid::Sheet;
use values::{Input, Shown, by_columns, turned};

const READ: &str = "https://www.googleapis.com/auth/spreadsheets.readonly";
const WRITE: &str = "https://www.googleapis.com/auth/spreadsheets";

const WRITTEN: [&str; 3] =
    ["includeValuesInResponse", "responseValueRenderOption", "valueInputOption"];

pub(super) const METHODS: &[Implemented] = &[
    method("sheets.spreadsheets.create", WRITE, &[], create),
    method("sheets.spreadsheets.get", READ, &[], get),
    method(
        "sheets.spreadsheets.values.get",
        READ,
        &["majorDimension", "valueRenderOption"],
        values,
    ),
    method(
        "sheets.spreadsheets.values.batchGet",
        READ,
        &["majorDimension", "ranges", "valueRenderOption"],
        batch_values,
    ),
    method("sheets.spreadsheets.values.update", WRITE, &WRITTEN, update),
    method(
        "sheets.spreadsheets.values.append",
        WRITE,
        &[
            "includeValuesInResponse",
            "insertDataOption",
            "responseValueRenderOption",
            "valueInputOption",
        ],
        append,
    ),
    method("sheets.spreadsheets.values.clear", WRITE, &[], clear),
    method("sheets.spreadsheets.values.batchUpdate", WRITE, &[], batch_update),
    method("sheets.spreadsheets.values.batchClear", WRITE, &[], batch_clear),
];

const fn method(
    id: &'static str,
    scope: &'static str,
    parameters: &'static [&'static str],
    work: Work,
) -> Implemented {
    Implemented { id, scope, parameters, fields: "", work }
}

/// By their IDs.
#[derive(Debug, Default)]
pub(super) struct Spreadsheets(HashMap<String, Spreadsheet>);

#[derive(Debug)]
struct Spreadsheet {
    owner: String,
    properties: Resource,
    sheets: Vec<Sheet>,
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "badRequest", message)
}

fn create(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let asked = Value::Object(call.resource()?);
    let mut properties = json!({
        "title": "Untitled spreadsheet", "locale": "en_US", "timeZone": "Etc/GMT",
        "autoRecalc": "ON_CHANGE",
    });
    for name in ["title", "locale", "timeZone"] {
        if let Some(value) = asked["properties"][name].as_str() {
            properties[name] = value.into();
        }
    }
    let mut sheets = Vec::new();
    for (index, sheet) in asked["sheets"].as_array().into_iter().flatten().enumerate() {
        if sheet.get("data").is_some() {
            return Err(call.unimplemented("sheets.data"));
        }
        let told = &sheet["properties"];
        let title = told["title"].as_str().map(str::to_owned);
        let size = |name: &str| {
            told["gridProperties"][name].as_u64().and_then(|size| usize::try_from(size).ok())
        };
        let id = told["sheetId"].as_i64().unwrap_or(index.try_into().unwrap_or_default());
        let title = title.unwrap_or_else(|| format!("Sheet{}", index + 1));
        sheets.push(Sheet::new(id, title, size("rowCount"), size("columnCount")));
    }
    if sheets.is_empty() {
        sheets.push(Sheet::new(0, "Sheet1".to_owned(), None, None));
    }
    let (sub, all) = (&call.caller.sub, &mut core.data.spreadsheets.0);
    let digest = Sha256::digest(format!("{sub} {}", all.len()));
    let id = format!("1fake-{:.32}", format!("{digest:x}"));
    let properties = properties.as_object().cloned().unwrap_or_default();
    let made = Spreadsheet { owner: sub.clone(), properties, sheets };
    let answer = made.to_json(&id);
    all.insert(id, made);
    Ok(Answer::Json(answer))
}

fn own<'a>(call: &Call, core: &'a mut Core) -> Result<&'a mut Spreadsheet, Refusal> {
    let found = core.data.spreadsheets.0.get_mut(call.id("spreadsheetId"));
    let found = found.ok_or_else(|| {
        Refusal::new(StatusCode::NOT_FOUND, "notFound", "Requested entity was not found.")
    })?;
    if found.owner != call.caller.sub {
        let message = "The caller does not have permission";
        return Err(Refusal::new(StatusCode::FORBIDDEN, "forbidden", message));
    }
    Ok(found)
}

fn get(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    Ok(Answer::Json(own(call, core)?.to_json(call.id("spreadsheetId"))))
}

impl Spreadsheet {
    fn to_json(&self, id: &str) -> Value {
        let sheets: Vec<Value> =
            self.sheets.iter().enumerate().map(|(n, sheet)| sheet.to_json(n)).collect();
        json!({
            "spreadsheetId": id,
            "properties": self.properties,
            "sheets": sheets,
            "spreadsheetUrl": format!("https://docs.google.com/spreadsheets/d/{id}/edit"),
        })
    }

    /// The sheet and the cells of a range; they may lie beyond its end.
    fn find(&mut self, range: &str) -> Result<(&mut Sheet, Area), Refusal> {
        let unclear = || invalid(format!("Unable to parse range: {range}"));
        let (name, cells) = a1::sheet(range);
        let named = |name: &str| self.sheets.iter().position(|sheet| sheet.title == name);
        // A range without a sheet is of the first; or it is a sheet's name.
        let (at, cells) = match (name, cells) {
            (Some(name), cells) => (named(&name).ok_or_else(unclear)?, cells),
            (None, Some(cells)) if a1::cells(cells, 1, 1).is_some() => (0, Some(cells)),
            (None, _) => (named(range).ok_or_else(unclear)?, None),
        };
        let sheet = &mut self.sheets[at];
        let whole = Area { top: 0, left: 0, bottom: sheet.rows, right: sheet.columns };
        let area = match cells {
            None => whole,
            Some(cells) => a1::cells(cells, sheet.rows, sheet.columns).ok_or_else(unclear)?,
        };
        Ok((sheet, area))
    }

    /// As [`find`](Self::find), with what lies on the sheet alone.
    fn held(&mut self, range: &str) -> Result<(&mut Sheet, Area), Refusal> {
        let (sheet, mut area) = self.find(range)?;
        if area.top >= sheet.rows || area.left >= sheet.columns {
            return Err(beyond(sheet, area));
        }
        area.bottom = area.bottom.min(sheet.rows);
        area.right = area.right.min(sheet.columns);
        Ok((sheet, area))
    }

    fn value_range(&mut self, range: &str, call: &Call) -> Result<Value, Refusal> {
        let (sheet, area) = self.held(range)?;
        let shown = Shown::read(call, "valueRenderOption")?;
        let mut rows = shown.of(sheet.values(area));
        let by_columns = by_columns(call.parameter("majorDimension"))?;
        if by_columns {
            rows = turned(&rows, true);
        }
        let mut json = json!({
            "range": area.written(&sheet.title),
            "majorDimension": if by_columns { "COLUMNS" } else { "ROWS" },
        });
        if !rows.is_empty() {
            json["values"] = json!(rows);
        }
        Ok(json)
    }

    fn update(
        &mut self,
        range: &str,
        told: &Value,
        how: &Input,
        call: &Call,
    ) -> Result<Value, Refusal> {
        let rows = how.rows(told, call)?;
        let (sheet, area) = self.find(range)?;
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let written = Area {
            bottom: area.top + rows.len().max(1),
            right: area.left + columns.max(1),
            ..area
        };
        if !area.is_cell() && (written.bottom > area.bottom || written.right > area.right) {
            let beyond = if written.bottom > area.bottom {
                format!("row [{}]", area.bottom + 1)
            } else {
                format!("column [{}]", a1::letters(area.right))
            };
            let range = area.written(&sheet.title);
            let message =
                format!("Requested writing within range [{range}], but tried writing to {beyond}");
            return Err(invalid(message));
        }
        if !sheet.holds(written) {
            return Err(beyond(sheet, written));
        }
        sheet.write((area.top, area.left), &rows);
        Ok(how.told(call.id("spreadsheetId"), sheet, written, &rows))
    }
}

fn beyond(sheet: &Sheet, area: Area) -> Refusal {
    let (rows, columns) = (sheet.rows, sheet.columns);
    let range = area.written(&sheet.title);
    invalid(format!(
        "Range ({range}) exceeds grid limits. Max rows: {rows}, max columns: {columns}"
    ))
}

fn values(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    own(call, core)?.value_range(call.id("range"), call).map(Answer::Json)
}

fn batch_values(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let spreadsheet = own(call, core)?;
    let ranges = call.parameters("ranges").map(|range| spreadsheet.value_range(range, call));
    let ranges = ranges.collect::<Result<Vec<Value>, Refusal>>()?;
    let id = call.id("spreadsheetId");
    Ok(Answer::Json(json!({"spreadsheetId": id, "valueRanges": ranges})))
}

fn update(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let how = Input::read(call)?;
    let told = Value::Object(call.resource()?);
    own(call, core)?.update(call.id("range"), &told, &how, call).map(Answer::Json)
}

fn append(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let how = Input::read(call)?;
    let inserts = match call.parameter("insertDataOption") {
        None | Some("OVERWRITE") => false,
        Some("INSERT_ROWS") => true,
        Some(other) => {
            return Err(invalid(format!("Invalid value for insertDataOption: {other}")));
        }
    };
    let rows = how.rows(&Value::Object(call.resource()?), call)?;
    let spreadsheet = own(call, core)?;
    let (sheet, area) = spreadsheet.held(call.id("range"))?;
    let table = sheet.table(area);
    let (top, left) = table.map_or((area.top, area.left), |table| (table.bottom, table.left));
    if inserts && table.is_some() {
        sheet.insert_rows(top, rows.len());
    }
    sheet.write((top, left), &rows);
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let written = Area { top, left, bottom: top + rows.len().max(1), right: left + columns.max(1) };
    let id = call.id("spreadsheetId");
    let mut json = json!({"spreadsheetId": id, "updates": how.told(id, sheet, written, &rows)});
    if let Some(table) = table {
        json["tableRange"] = table.written(&sheet.title).into();
    }
    Ok(Answer::Json(json))
}

fn clear(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let (sheet, area) = own(call, core)?.held(call.id("range"))?;
    sheet.clear(area);
    let cleared = area.written(&sheet.title);
    let id = call.id("spreadsheetId");
    Ok(Answer::Json(json!({"spreadsheetId": id, "clearedRange": cleared})))
}

fn batch_clear(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let asked = Value::Object(call.resource()?);
    let spreadsheet = own(call, core)?;
    let mut cleared = Vec::new();
    for range in asked["ranges"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let (sheet, area) = spreadsheet.held(range)?;
        sheet.clear(area);
        cleared.push(area.written(&sheet.title));
    }
    let id = call.id("spreadsheetId");
    Ok(Answer::Json(json!({"spreadsheetId": id, "clearedRanges": cleared})))
}

fn batch_update(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let asked = Value::Object(call.resource()?);
    let shown = Shown::named(asked["responseValueRenderOption"].as_str())?;
    let told = asked["includeValuesInResponse"] == true;
    let how = Input::named(asked["valueInputOption"].as_str(), told.then_some(shown))?;
    let spreadsheet = own(call, core)?;
    let mut responses = Vec::new();
    for data in asked["data"].as_array().into_iter().flatten() {
        let range = data["range"].as_str().unwrap_or_default();
        responses.push(spreadsheet.update(range, data, &how, call)?);
    }
    let total = |name: &str| responses.iter().filter_map(|one| one[name].as_u64()).sum::<u64>();
    Ok(Answer::Json(json!({
        "spreadsheetId": call.id("spreadsheetId"),
        "totalUpdatedRows": total("updatedRows"),
        "totalUpdatedColumns": total("updatedColumns"),
        "totalUpdatedCells": total("updatedCells"),
        "totalUpdatedSheets": usize::from(!responses.is_empty()),
        "responses": responses,
    })))
}
