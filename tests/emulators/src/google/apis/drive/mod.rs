//! Drive: every user has the same files to begin with, and those that they make.

mod content;
mod search;

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::super::core::Core;
use super::super::exchange::{AccessError, Caller};
use super::super::refusal::Refusal;
use super::call::{Answer, ByUser, Call, Implemented, Resource, field, patch, written};
use content::Content;
use search::{Query, Unread};

const READ: &str = "https://www.googleapis.com/auth/drive.readonly";
const FILE: &str = "https://www.googleapis.com/auth/drive.file";
/// These show what the app has made, and nothing else.
const NARROW: [&str; 2] = [FILE, "https://www.googleapis.com/auth/drive.appdata"];
/// And these no content.
const METADATA: [&str; 2] = [
    "https://www.googleapis.com/auth/drive.metadata",
    "https://www.googleapis.com/auth/drive.metadata.readonly",
];

const FOLDER: &str = "application/vnd.google-apps.folder";
/// How many files every user has.
const FILES: usize = 42;
/// The largest download.
const MAX_SIZE: u64 = 1 << 40;
/// What is answered of a file if the call does not say.
const BRIEF: &str = "kind,id,name,mimeType";

/// What a caller may set.
const WRITABLE: [&str; 10] = [
    "id",
    "name",
    "mimeType",
    "description",
    "parents",
    "properties",
    "appProperties",
    "starred",
    "trashed",
    "createdTime",
];

pub(super) const METHODS: &[Implemented] = &[
    Implemented {
        id: "drive.files.list",
        scope: READ,
        parameters: &["corpora", "orderBy", "pageSize", "pageToken", "q", "spaces"],
        fields: "kind,incompleteSearch,nextPageToken,files(kind,id,name,mimeType)",
        work: list,
    },
    Implemented { id: "drive.files.get", scope: READ, parameters: &[], fields: BRIEF, work: get },
    Implemented {
        id: "drive.files.create",
        scope: FILE,
        parameters: &[],
        fields: BRIEF,
        work: create,
    },
    Implemented {
        id: "drive.files.update",
        scope: FILE,
        parameters: &["addParents", "removeParents"],
        fields: BRIEF,
        work: update,
    },
    Implemented {
        id: "drive.files.delete",
        scope: FILE,
        parameters: &[],
        fields: "",
        work: delete,
    },
];

/// What every user has.
#[derive(Debug, Default)]
pub(super) struct Drives {
    files: ByUser<Vec<File>>,
    made: u64,
}

#[derive(Clone, Debug)]
struct File {
    resource: Resource,
    content: Content,
    by_app: bool,
}

fn made_up_id(sub: &str, which: &str) -> String {
    let digest = Sha256::digest(sub.as_bytes());
    let owner = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    format!("1fake-{owner:08x}-{which}")
}

/// The caller's files, and the ID of the folder that all are in.
fn own<'a>(call: &Call, core: &'a mut Core) -> (&'a mut Vec<File>, String) {
    let sub = &call.caller.sub;
    let user = core.identity.user(sub).cloned().unwrap_or_default();
    let root = made_up_id(sub, "root");
    let files = core.data.drives.files.entry(sub.clone()).or_insert_with(|| {
        let file = |index: usize| {
            let name = format!("File {index}").into();
            let mut resource = Resource::from_iter([("name".to_owned(), name)]);
            complete(&mut resource, made_up_id(sub, &format!("{index:02}")), &root, call);
            told_of_owner(&mut resource, &user.name, &user.email);
            File { resource, content: Content::Made, by_app: false }
        };
        (0..FILES).map(file).collect()
    });
    (files, root)
}

/// What a file has besides what its maker says.
fn complete(file: &mut Resource, id: String, root: &str, call: &Call) {
    let mut whole = json!({
        "kind": "drive#file",
        "name": "Untitled",
        "mimeType": "application/octet-stream",
        "parents": [root],
        "createdTime": written(call.now),
        "modifiedTime": written(call.now),
        "trashed": false,
        "starred": false,
        "ownedByMe": true,
        "spaces": ["drive"],
        "version": "1",
    });
    if let Some(whole) = whole.as_object_mut() {
        patch(whole, std::mem::take(file));
        whole.insert(
            "webViewLink".to_owned(),
            format!("https://drive.google.com/file/d/{id}/view").into(),
        );
        whole.insert("id".to_owned(), id.into());
        *file = std::mem::take(whole);
    }
}

fn told_of_owner(file: &mut Resource, name: &str, email: &str) {
    let owner = json!([{
        "kind": "drive#user", "displayName": name, "emailAddress": email, "me": true,
    }]);
    file.insert("owners".to_owned(), owner);
}

/// Whether a token may see it.
fn is_shown(file: &File, caller: &Caller, call: &Call) -> bool {
    let held = |scope: &&String| caller.scopes.contains(scope);
    let mut held = call.method.scopes.iter().filter(held);
    file.by_app || held.any(|scope| !NARROW.contains(&scope.as_str()))
}

fn missing(id: &str) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "notFound", format!("File not found: {id}."))
}

fn one<'a>(call: &Call, files: &'a mut [File]) -> Result<&'a mut File, Refusal> {
    let id = call.id("fileId");
    let found = files.iter_mut().find(|file| field(&file.resource, "id") == id);
    found.filter(|file| is_shown(file, &call.caller, call)).ok_or_else(|| missing(id))
}

fn list(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let allowed = 1..=1000;
    let size = call.size("pageSize", &allowed, 100)?;
    let asked: Option<usize> = call.parameter("pageSize").and_then(|size| size.parse().ok());
    if asked.is_some_and(|asked| asked > 1000) {
        return Err(Call::out_of_range("pageSize", &allowed));
    }
    for (name, only) in [("corpora", "user"), ("spaces", "drive")] {
        if let Some(other) = call.parameter(name).filter(|value| *value != only) {
            return Err(call.unimplemented(&format!("{name}={other}")));
        }
    }
    let query = call.parameter("q").map(Query::parse).transpose().map_err(|why| match why {
        Unread::Malformed => Refusal::new(StatusCode::BAD_REQUEST, "invalid", "Invalid Value: q"),
        Unread::Unimplemented(term) => call.unimplemented(&format!("q={term}")),
    })?;
    let (files, root) = own(call, core);
    let found = files.iter().filter(|file| is_shown(file, &call.caller, call));
    let mut found: Vec<&Resource> = found
        .map(|file| &file.resource)
        .filter(|file| query.as_ref().is_none_or(|query| query.finds(file, &root)))
        .collect();
    // The last key is sorted by first, since sorting is stable.
    for key in call.parameter("orderBy").unwrap_or_default().split(',').rev() {
        let (key, descending) = match key.trim().strip_suffix(" desc") {
            Some(key) => (key, true),
            None => (key.trim(), false),
        };
        let by = |file: &Resource| match key {
            "folder" => (field(file, "mimeType") != FOLDER).to_string(),
            key => file.get(key).and_then(Value::as_str).unwrap_or_default().to_lowercase(),
        };
        match key {
            "" => {}
            "createdTime" | "folder" | "modifiedTime" | "name" if descending => {
                found.sort_by_key(|file| std::cmp::Reverse(by(file)));
            }
            "createdTime" | "folder" | "modifiedTime" | "name" => {
                found.sort_by_key(|file| by(file));
            }
            other => return Err(call.unimplemented(&format!("orderBy={other}"))),
        }
    }
    let (files, next) = call.page(found.into_iter().cloned(), size)?;
    let mut json = json!({"kind": "drive#fileList", "incompleteSearch": false, "files": files});
    if let Some(next) = next {
        json["nextPageToken"] = next.into();
    }
    Ok(Answer::Json(json))
}

fn get(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let (files, root) = own(call, core);
    if ["root", &root].contains(&call.id("fileId")) {
        let mut folder = Resource::from_iter([
            ("name".to_owned(), "My Drive".into()),
            ("mimeType".to_owned(), FOLDER.into()),
        ]);
        complete(&mut folder, root.clone(), &root, call);
        folder.remove("parents");
        return Ok(Answer::Json(folder.into()));
    }
    let file = one(call, files)?;
    if call.parameter("alt") != Some("media") {
        return Ok(Answer::Json(file.resource.clone().into()));
    }
    let held = |scope: &&String| call.caller.scopes.contains(scope);
    let mut held = call.method.scopes.iter().filter(held);
    if held.all(|scope| METADATA.contains(&scope.as_str())) {
        return Err(AccessError::MissingScope(READ).into());
    }
    // Anything may be asked for of what is made up.
    let size: Option<u64> = call.parameter("size").unwrap_or("1024").parse().ok();
    let size = size.filter(|size| *size <= MAX_SIZE);
    let size = size.ok_or_else(|| Refusal::invalid("size is at most 1 TiB."))?;
    let text = |name: &str| field(&file.resource, name).as_str().unwrap_or_default();
    let response = file.content.response(text("id"), text("mimeType"), size, &call.headers)?;
    Ok(Answer::Content(response))
}

/// What the caller sets, and the content if there is one.
fn given(call: &Call) -> Result<(Resource, Option<(String, Bytes)>), Refusal> {
    let mut uploaded = call.uploaded()?;
    let clearable = ["appProperties", "description", "properties"];
    uploaded.resource.retain(|name, value| {
        let name = name.as_str();
        WRITABLE.contains(&name) && (!value.is_null() || clearable.contains(&name))
    });
    Ok((uploaded.resource, uploaded.media))
}

fn keep(file: &mut File, media: Option<(String, Bytes)>) {
    let Some((kind, bytes)) = media else { return };
    if file.resource.get("mimeType").is_none_or(|known| known == "application/octet-stream") {
        file.resource.insert("mimeType".to_owned(), kind.into());
    }
    let digest = md5::compute(&bytes);
    file.resource.insert("size".to_owned(), bytes.len().to_string().into());
    file.resource.insert("md5Checksum".to_owned(), format!("{digest:x}").into());
    file.content = Content::Kept(bytes);
}

fn create(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let (mut resource, media) = given(call)?;
    core.data.drives.made += 1;
    let number = core.data.drives.made;
    let user = core.identity.user(&call.caller.sub).cloned().unwrap_or_default();
    let (files, root) = own(call, core);
    let id = match resource.remove("id").as_ref().and_then(Value::as_str) {
        None => made_up_id(&call.caller.sub, &format!("app-{number}")),
        Some(id) => id.to_owned(),
    };
    if files.iter().any(|file| field(&file.resource, "id") == id.as_str()) {
        let message = "A file already exists with the provided ID.";
        return Err(Refusal::new(StatusCode::CONFLICT, "fileIdInUse", message));
    }
    settle_parents(&mut resource, files, &root)?;
    let is_google = resource
        .get("mimeType")
        .and_then(Value::as_str)
        .is_some_and(|kind| kind.starts_with("application/vnd.google-apps."));
    if is_google && media.is_some() {
        return Err(call.unimplemented("a conversion to a Google format"));
    }
    complete(&mut resource, id, &root, call);
    told_of_owner(&mut resource, &user.name, &user.email);
    let mut file = File { resource, content: Content::None, by_app: true };
    if !is_google {
        keep(
            &mut file,
            Some(media.unwrap_or_else(|| ("application/octet-stream".to_owned(), Bytes::new()))),
        );
    }
    let answer = file.resource.clone();
    files.push(file);
    Ok(Answer::Json(answer.into()))
}

/// Refuses folders that are not there; `root` is a name for one.
fn settle_parents(resource: &mut Resource, files: &[File], root: &str) -> Result<(), Refusal> {
    let Some(Value::Array(parents)) = resource.get_mut("parents") else { return Ok(()) };
    for parent in parents {
        if parent == "root" {
            *parent = root.into();
        }
        let is_folder = |file: &File| {
            field(&file.resource, "id") == &*parent && field(&file.resource, "mimeType") == FOLDER
        };
        if parent != root && !files.iter().any(is_folder) {
            return Err(missing(parent.as_str().unwrap_or_default()));
        }
    }
    Ok(())
}

fn update(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let (mut changes, media) = given(call)?;
    let (files, root) = own(call, core);
    for fixed in ["id", "parents", "createdTime"] {
        if changes.contains_key(fixed) {
            let message = format!(
                "The resource body includes fields which are not directly writable: {fixed}."
            );
            return Err(Refusal::new(StatusCode::FORBIDDEN, "fieldNotWritable", message));
        }
    }
    let listed = |name: &str| {
        let ids = call.parameter(name).unwrap_or_default().split(',');
        ids.filter(|id| !id.is_empty()).map(Value::from).collect::<Vec<Value>>()
    };
    let mut parents =
        field(&one(call, files)?.resource, "parents").as_array().cloned().unwrap_or_default();
    let mut added = Resource::from_iter([("parents".to_owned(), listed("addParents").into())]);
    settle_parents(&mut added, files, &root)?;
    let removed = listed("removeParents");
    parents.retain(|parent| !removed.contains(parent));
    parents.extend(added["parents"].as_array().cloned().unwrap_or_default());
    changes.insert("parents".to_owned(), parents.into());
    changes.insert("modifiedTime".to_owned(), written(call.now).into());
    let file = one(call, files)?;
    let version: u64 =
        field(&file.resource, "version").as_str().and_then(|v| v.parse().ok()).unwrap_or(1);
    changes.insert("version".to_owned(), (version + 1).to_string().into());
    patch(&mut file.resource, changes);
    keep(file, media);
    Ok(Answer::Json(file.resource.clone().into()))
}

/// A folder goes with everything in it.
fn delete(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let (files, _) = own(call, core);
    let mut gone = vec![field(&one(call, files)?.resource, "id").clone()];
    while let Some(id) = gone.pop() {
        let inside = |file: &File| {
            field(&file.resource, "parents").as_array().is_some_and(|p| p.contains(&id))
        };
        gone.extend(
            files
                .iter()
                .filter(|file| inside(file))
                .map(|file| field(&file.resource, "id").clone()),
        );
        files.retain(|file| field(&file.resource, "id") != &id);
    }
    Ok(Answer::Empty)
}
