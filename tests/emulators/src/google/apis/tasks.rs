//! Tasks: the API whose inserts are effects that can be counted.

use jiff::civil::Date;
use serde_json::{Value, json};

use super::super::core::{Core, text, user_agent};
use super::super::refusal::Refusal;
use super::call::{Answer, ByUser, Call, Implemented, Resource, Work, field, patch, written};

const TASKS: &str = "https://www.googleapis.com/auth/tasks";
const READ: &str = "https://www.googleapis.com/auth/tasks.readonly";

/// The header that names the job which asks for an effect.
const EFFECT_ID: &str = "x-effect-id";
/// The list that `@default` stands for.
const DEFAULT: &str = "MDfake-default";
/// What a caller may set.
const WRITABLE: [&str; 5] = ["title", "notes", "due", "status", "completed"];

pub(super) const METHODS: &[Implemented] = &[
    method("tasks.tasklists.list", READ, &["maxResults", "pageToken"], list_lists),
    method("tasks.tasklists.get", READ, &[], get_list),
    method(
        "tasks.tasks.list",
        READ,
        &["maxResults", "pageToken", "showCompleted", "showDeleted", "showHidden"],
        list,
    ),
    method("tasks.tasks.get", READ, &[], get),
    method("tasks.tasks.insert", TASKS, &[], insert),
    method("tasks.tasks.patch", TASKS, &[], change),
    method("tasks.tasks.update", TASKS, &[], change),
    method("tasks.tasks.delete", TASKS, &[], delete),
];

const fn method(
    id: &'static str,
    scope: &'static str,
    parameters: &'static [&'static str],
    work: Work,
) -> Implemented {
    Implemented { id, scope, parameters, fields: "", work }
}

/// All tasks, the newest of a list first. Every list that is asked for exists.
#[derive(Debug, Default)]
pub(super) struct TaskLists {
    lists: ByUser<Vec<(String, Vec<Resource>)>>,
    inserted: u64,
}

impl TaskLists {
    fn list(&mut self, sub: &str, id: &str) -> &mut Vec<Resource> {
        let id = if id == "@default" { DEFAULT } else { id };
        let lists = self.lists.entry(sub.to_owned()).or_default();
        let at = lists.iter().position(|(known, _)| known == id).unwrap_or_else(|| {
            lists.push((id.to_owned(), Vec::new()));
            lists.len() - 1
        });
        &mut lists[at].1
    }
}

fn of<'a>(call: &Call, core: &'a mut Core) -> &'a mut Vec<Resource> {
    core.data.tasks.list(&call.caller.sub, call.id("tasklist"))
}

fn one<'a>(call: &Call, core: &'a mut Core) -> Result<&'a mut Resource, Refusal> {
    let tasks = of(call, core);
    let found = tasks.iter_mut().find(|task| field(task, "id") == call.id("task"));
    found.ok_or_else(|| Refusal::not_found("Task"))
}

fn list(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let size = call.size("maxResults", &(1..=100), 20)?;
    let completed = call.parameter("showCompleted") != Some("false");
    let tasks =
        of(call, core).iter().filter(|task| completed || field(task, "status") != "completed");
    let (items, next) = call.page(tasks.cloned(), size)?;
    let items: Vec<Value> = items.into_iter().map(Value::Object).collect();
    Ok(listed("tasks#tasks", &items, next))
}

fn listed(kind: &str, items: &[Value], next: Option<String>) -> Answer {
    let mut json = json!({"kind": kind, "items": items});
    if let Some(next) = next {
        json["nextPageToken"] = next.into();
    }
    Answer::Json(json)
}

fn get(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    Ok(Answer::Json(one(call, core)?.clone().into()))
}

fn insert(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let new = given(call)?;
    core.data.tasks.inserted += 1;
    let number = core.data.tasks.inserted;
    let (list, id) = (call.id("tasklist"), format!("task-{number}"));
    let mut task = json!({
        "kind": "tasks#task",
        "id": id,
        "etag": format!("\"{number}\""),
        "title": "",
        "updated": written(call.now),
        "selfLink": format!("{}/tasks/v1/lists/{list}/tasks/{id}", call.origin),
        // The newest is the first.
        "position": format!("{:020}", u64::MAX / 2 - number),
        "status": "needsAction",
        "links": [],
    });
    let Some(task) = task.as_object_mut() else { return Err(Refusal::invalid("no task")) };
    settle(task, new, call);
    let id = text(&call.headers, EFFECT_ID).map(ToOwned::to_owned);
    let title = field(task, "title").as_str().unwrap_or_default();
    core.ledger.effect(call.at, id, title, &call.caller.sub, user_agent(&call.headers));
    of(call, core).insert(0, task.clone());
    Ok(Answer::Json(task.clone().into()))
}

/// Patches, or replaces everything that a caller may set.
fn change(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let changes = given(call)?;
    let task = one(call, core)?;
    if call.method.id == "tasks.tasks.update" {
        for name in WRITABLE {
            task.remove(name);
        }
    }
    task.insert("updated".to_owned(), written(call.now).into());
    settle(task, changes, call);
    Ok(Answer::Json(task.clone().into()))
}

/// What the body sets, checked.
fn given(call: &Call) -> Result<Resource, Refusal> {
    let mut new = call.resource()?;
    new.retain(|name, _| WRITABLE.contains(&name.as_str()));
    let is_text = |value: &Value| value.is_null() || value.is_string();
    if let Some((name, _)) = new.iter().find(|(_, value)| !is_text(value)) {
        return Err(Refusal::invalid(format!("Invalid value for {name}: it is a string.")));
    }
    if let Some(due) = new.get("due").and_then(Value::as_str) {
        // Only the date of it is kept.
        let date: Date = due
            .get(..10)
            .and_then(|date| date.parse().ok())
            .ok_or_else(|| Refusal::invalid("Invalid value for due."))?;
        new.insert("due".to_owned(), format!("{date}T00:00:00.000Z").into());
    }
    let status = new.get("status").and_then(Value::as_str);
    if status.is_some_and(|status| !["needsAction", "completed"].contains(&status)) {
        return Err(Refusal::invalid("Invalid value for status."));
    }
    Ok(new)
}

fn settle(task: &mut Resource, changes: Resource, call: &Call) {
    patch(task, changes);
    for (name, usual) in [("title", ""), ("status", "needsAction")] {
        task.entry(name).or_insert_with(|| usual.into());
    }
    if field(task, "status") == "completed" {
        task.entry("completed").or_insert_with(|| written(call.now).into());
    } else {
        task.remove("completed");
    }
}

fn delete(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    one(call, core)?;
    of(call, core).retain(|task| field(task, "id") != call.id("task"));
    Ok(Answer::Empty)
}

fn list_lists(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let size = call.size("maxResults", &(1..=1000), 1000)?;
    let tasks = &mut core.data.tasks;
    tasks.list(&call.caller.sub, DEFAULT);
    let lists = tasks.lists.get(&call.caller.sub).into_iter().flatten();
    let (items, next) = call.page(lists.map(|(id, _)| list_json(call, id)), size)?;
    Ok(listed("tasks#taskLists", &items, next))
}

fn get_list(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let id = call.id("tasklist");
    let id = if id == "@default" { DEFAULT } else { id };
    let mut lists = core.data.tasks.lists.get(&call.caller.sub).into_iter().flatten();
    if id != DEFAULT && !lists.any(|(known, _)| known == id) {
        return Err(Refusal::not_found("Task list"));
    }
    Ok(Answer::Json(list_json(call, id)))
}

fn list_json(call: &Call, id: &str) -> Value {
    json!({
        "kind": "tasks#taskList",
        "id": id,
        "title": if id == DEFAULT { "My Tasks" } else { id },
        "selfLink": format!("{}/tasks/v1/users/@me/lists/{id}", call.origin),
    })
}
