"""Google's APIs as Google's client for Python offers them; GOOGLE_EMULATOR_ORIGIN says where.

Every user, scope and method is the published reference's: the client's own discovery
documents say which scopes let a token into a method, and each is tried.
"""

import base64
import io
import json
import os
import sys
import uuid
from email.message import EmailMessage

from google.oauth2.credentials import Credentials
from googleapiclient import discovery_cache
from googleapiclient.discovery import build, build_from_document
from googleapiclient.errors import HttpError
from googleapiclient.http import MediaIoBaseDownload, MediaIoBaseUpload

from features import equal, feature, run
import methods

ORIGIN = os.environ["GOOGLE_EMULATOR_ORIGIN"]
USERS = json.loads(os.environ["GOOGLE_EMULATOR_USERS"])
AUTH = "https://www.googleapis.com/auth/"


def credentials(user=0, scopes=None):
    # `from_authorized_user_info` asks Google's own token endpoint, whatever the file says.
    names = ("refresh_token", "token_uri", "client_id", "client_secret")
    return Credentials(None, scopes=scopes, **{name: USERS[user][name] for name in names})


class Context:
    """The APIs, each as one of two users."""

    def api(self, name, version, user=0, scopes=None):
        # The one place that media are sent to as well.
        document = json.loads(discovery_cache.get_static_doc(name, version))
        document["rootUrl"] = f"{ORIGIN}/"
        document.pop("mtlsRootUrl", None)
        return build_from_document(document, credentials=credentials(user, scopes))

    @property
    def calendar(self):
        return self.api("calendar", "v3")

    @property
    def drive(self):
        return self.api("drive", "v3")

    @property
    def sheets(self):
        return self.api("sheets", "v4")


def refused(status, reason, call):
    """Checks that a call is refused as Google's errors are read."""
    try:
        call.execute()
    except HttpError as error:
        equal(error.status_code, status)
        equal(error.error_details[0].get("reason"), reason)
        return error
    raise AssertionError(f"{status} {reason} was wanted, and nothing was refused")


def event(summary, start, end, **more):
    return {"summary": summary, "start": {"dateTime": start}, "end": {"dateTime": end}, **more}


@feature("calendar: insert, get, update, patch, delete")
def calendar_events(context):
    events = context.calendar.events()
    body = event("a", "2030-01-01T10:00:00+01:00", "2030-01-01T11:00:00+01:00", location="here")
    made = events.insert(calendarId="primary", body=body).execute()
    equal(made["start"]["dateTime"], "2030-01-01T09:00:00Z")
    equal(events.get(calendarId="primary", eventId=made["id"]).execute(), made)
    named = {"calendarId": "primary", "eventId": made["id"]}
    patched = events.patch(**named, body={"summary": "b", "location": None}).execute()
    equal((patched["summary"], "location" in patched), ("b", False))
    updated = events.update(**named, body={**patched, "description": "c"}).execute()
    equal((updated["summary"], updated["description"]), ("b", "c"))
    events.delete(**named).execute()
    equal(events.get(**named).execute()["status"], "cancelled")
    refused(410, "deleted", events.delete(**named))


@feature("calendar: list by time, in order and in pages")
def calendar_list(context):
    events = context.calendar.events()
    word = uuid.uuid4().hex
    for hour in (3, 1, 2):
        body = event(f"{word} {hour}", f"2031-01-01T0{hour}:00:00Z", f"2031-01-01T0{hour}:30:00Z")
        events.insert(calendarId="primary", body=body).execute()
    day = {"start": {"date": "2031-01-02"}, "end": {"date": "2031-01-03"}}
    events.insert(calendarId="primary", body={"summary": f"{word} day", **day}).execute()
    asked = {"calendarId": "primary", "q": word, "singleEvents": True, "orderBy": "startTime"}
    found, request = [], events.list(**asked, maxResults=2)
    while request is not None:
        page = request.execute()
        found += [item["summary"].split()[1] for item in page["items"]]
        request = events.list_next(request, page)
    equal(found, ["1", "2", "3", "day"])
    bounds = {"timeMin": "2031-01-01T01:30:00Z", "timeMax": "2031-01-01T03:00:00Z"}
    items = events.list(**asked, **bounds).execute()["items"]
    equal([item["summary"].split()[1] for item in items], ["2"])


@feature("calendar: what is wrong is refused as the reference says")
def calendar_refusals(context):
    events = context.calendar.events()
    noon = "2032-01-01T12:00:00Z"
    backwards = event("x", noon, "2032-01-01T11:00:00Z")
    refused(400, "timeRangeEmpty", events.insert(calendarId="primary", body=backwards))
    refused(400, "required", events.insert(calendarId="primary", body={"summary": "x"}))
    refused(404, "notFound", events.get(calendarId="primary", eventId="missing"))
    refused(404, "notFound", events.list(calendarId="other@example.com"))
    made = event("x", noon, noon, id=uuid.uuid4().hex)
    events.insert(calendarId="primary", body=made).execute()
    refused(409, "duplicate", events.insert(calendarId="primary", body=made))
    refused(400, "badRequest", events.list(calendarId="primary", orderBy="startTime"))
    changed = events.patch(calendarId="primary", eventId=made["id"], body={"summary": "y"})
    changed.headers["If-Match"] = '"another"'
    refused(412, "conditionNotMet", changed)


@feature("calendar: sync tokens")
def calendar_sync(context):
    context.calendar.events().list(calendarId="primary", syncToken="x").execute()


@feature("drive: create a folder and files, in one request with their media")
def drive_create(context):
    files = context.drive.files()
    folder = {"name": "folder", "mimeType": "application/vnd.google-apps.folder"}
    folder = files.create(body=folder).execute()
    media = MediaIoBaseUpload(io.BytesIO(b"hello\r\n--x\n"), "text/plain")
    body = {"name": "note.txt", "parents": [folder["id"]]}
    made = files.create(body=body, media_body=media, fields="id,size,md5Checksum,parents").execute()
    equal((made["size"], made["parents"]), ("11", [folder["id"]]))
    equal(files.get_media(fileId=made["id"]).execute(), b"hello\r\n--x\n")
    listed = files.list(q=f"'{folder['id']}' in parents and trashed = false").execute()["files"]
    wanted = {"kind": "drive#file", "id": made["id"], "name": "note.txt", "mimeType": "text/plain"}
    equal(listed, [wanted])


@feature("drive: update, move, trash and delete")
def drive_update(context):
    files = context.drive.files()
    made = files.create(body={"name": "a", "mimeType": "text/plain"}).execute()["id"]
    media = MediaIoBaseUpload(io.BytesIO(b"new"), "text/plain")
    told = files.update(fileId=made, body={"name": "b"}, media_body=media, fields="name,size")
    equal(told.execute(), {"name": "b", "size": "3"})
    folder = {"name": "f", "mimeType": "application/vnd.google-apps.folder"}
    folder = files.create(body=folder).execute()["id"]
    moved = files.update(fileId=made, addParents=folder, removeParents="root", fields="parents")
    equal(folder in moved.execute()["parents"], True)
    files.update(fileId=made, body={"trashed": True}).execute()
    equal(files.list(q=f"trashed = true and '{folder}' in parents").execute()["files"][0]["id"], made)
    files.delete(fileId=made).execute()
    refused(404, "notFound", files.get(fileId=made))


@feature("drive: download in chunks")
def drive_download(context):
    files = context.drive.files()
    content = os.urandom(300_000)
    media = MediaIoBaseUpload(io.BytesIO(content), "application/octet-stream")
    made = files.create(body={"name": "large"}, media_body=media).execute()["id"]
    got, done = io.BytesIO(), False
    download = MediaIoBaseDownload(got, files.get_media(fileId=made), chunksize=100_000)
    while not done:
        _, done = download.next_chunk()
    equal(got.getvalue() == content, True)


@feature("drive: list in pages, and only some fields")
def drive_list(context):
    files = context.drive.files()
    asked = {"q": "name contains 'File'", "orderBy": "name", "fields": "nextPageToken,files(name)"}
    found, request = [], files.list(**asked, pageSize=15)
    while request is not None:
        page = request.execute()
        equal(set(page) <= {"nextPageToken", "files"}, True)
        found += page["files"]
        request = files.list_next(request, page)
    equal(len(found), 42)
    equal(found[0], {"name": "File 0"})


@feature("drive: an app sees what it made, with drive.file alone")
def drive_file(context):
    narrow = context.api("drive", "v3", scopes=[AUTH + "drive.file"]).files()
    made = narrow.create(body={"name": "mine"}).execute()["id"]
    names = {file["name"] for file in narrow.list(pageSize=1000).execute()["files"]}
    equal(("mine" in names, "File 0" in names), (True, False))
    equal(narrow.get(fileId=made).execute()["name"], "mine")


@feature("drive: resumable uploads")
def drive_resumable(context):
    media = MediaIoBaseUpload(io.BytesIO(b"x"), "text/plain", resumable=True)
    context.drive.files().create(body={"name": "x"}, media_body=media).execute()


def letter(**headers):
    message = EmailMessage()
    for name, value in headers.items():
        message[name] = value
    return message


def raw(message):
    return {"raw": base64.urlsafe_b64encode(message.as_bytes()).decode()}


@feature("gmail: send, and read it as its recipient")
def gmail_send(context):
    word = uuid.uuid4().hex
    message = letter(To="Bob <bob@example.com>", Subject=word)
    message.set_content("caf\u00e9 au lait")
    message.add_attachment(b"1,2", maintype="text", subtype="csv", filename="a.csv")
    sent = context.api("gmail", "v1").users().messages().send(userId="me", body=raw(message)).execute()
    equal(sent["labelIds"], ["SENT"])
    theirs = context.api("gmail", "v1", user=1).users().messages()
    asked = {"userId": "me", "labelIds": ["INBOX", "UNREAD"], "q": f"from:ann subject:{word}"}
    (found,) = theirs.list(**asked).execute()["messages"]
    got = theirs.get(userId="me", id=found["id"]).execute()
    headers = {header["name"]: header["value"] for header in got["payload"]["headers"]}
    equal((headers["Subject"], headers["From"]), (word, "ann@example.com"))
    equal(got["snippet"], "caf\u00e9 au lait")
    text, attached = got["payload"]["parts"]
    equal(base64.urlsafe_b64decode(text["body"]["data"]).decode().strip(), "caf\u00e9 au lait")
    equal((attached["filename"], attached["body"]["data"]), ("a.csv", "MSwy"))


@feature("gmail: formats, labels and profile")
def gmail_formats(context):
    users = context.api("gmail", "v1").users()
    message = letter(To="ann@example.com", Subject="to myself")
    message.set_content("x")
    sent = users.messages().send(userId="me", body=raw(message)).execute()
    get = lambda **more: users.messages().get(userId="me", id=sent["id"], **more).execute()
    equal(set(sent["labelIds"]), {"SENT", "INBOX", "UNREAD"})
    told = get(format="metadata", metadataHeaders=["Subject"])["payload"]["headers"]
    equal(told, [{"name": "Subject", "value": "to myself"}])
    equal("payload" in get(format="minimal"), False)
    whole = base64.urlsafe_b64decode(get(format="raw")["raw"])
    equal(whole.endswith(message.as_bytes()), True)
    names = {label["name"] for label in users.labels().list(userId="me").execute()["labels"]}
    equal({"INBOX", "SENT", "UNREAD"} <= names, True)
    equal(users.getProfile(userId="me").execute()["emailAddress"], "ann@example.com")


@feature("gmail: list in pages, newest first")
def gmail_list(context):
    messages = context.api("gmail", "v1").users().messages()
    word = uuid.uuid4().hex
    for number in range(3):
        message = letter(To="nobody@example.org", Subject=f"{word} {number}")
        message.set_content("x")
        messages.send(userId="me", body=raw(message)).execute()
    found, request = [], messages.list(userId="me", q=word, maxResults=2)
    while request is not None:
        page = request.execute()
        found += [messages.get(userId="me", id=m["id"]).execute() for m in page["messages"]]
        request = messages.list_next(request, page)
    subject = lambda m: next(h["value"] for h in m["payload"]["headers"] if h["name"] == "Subject")
    equal([subject(message)[-1] for message in found], ["2", "1", "0"])
    equal("messages" in messages.list(userId="me", q=uuid.uuid4().hex).execute(), False)


@feature("gmail: what is wrong is refused as the reference says")
def gmail_refusals(context):
    messages = context.api("gmail", "v1").users().messages()
    refused(404, "notFound", messages.get(userId="me", id="missing"))
    refused(403, "forbidden", messages.list(userId="bob@example.com"))
    refused(400, "invalidArgument", messages.send(userId="me", body=raw(letter(Subject="x"))))
    narrow = context.api("gmail", "v1", scopes=[AUTH + "gmail.metadata"]).users().messages()
    refused(403, "forbidden", narrow.list(userId="me", q="x"))


@feature("sheets: create, update and get, rows and columns")
def sheets_values(context):
    sheets = context.sheets.spreadsheets()
    body = {"properties": {"title": "t"}, "sheets": [{"properties": {"title": "My sheet"}}]}
    made = sheets.create(body=body, fields="spreadsheetId,properties(title)").execute()
    equal(made["properties"], {"title": "t"})
    named = {"spreadsheetId": made["spreadsheetId"]}
    values = {"values": [["a", "7", "TRUE"], ["b", 1.5]]}
    told = sheets.values().update(
        **named, range="'My sheet'!A1:C2", valueInputOption="USER_ENTERED", body=values).execute()
    equal((told["updatedRange"], told["updatedCells"]), ("'My sheet'!A1:C2", 5))
    got = sheets.values().get(**named, range="A1:C9").execute()
    equal(got, {"range": "'My sheet'!A1:C9", "majorDimension": "ROWS",
                "values": [["a", "7", "TRUE"], ["b", "1.5"]]})
    plain = {"majorDimension": "COLUMNS", "valueRenderOption": "UNFORMATTED_VALUE"}
    got = sheets.values().get(**named, range="'My sheet'!A:B", **plain).execute()
    equal((got["range"], got["values"]), ("'My sheet'!A1:B1000", [["a", "b"], [7, 1.5]]))


@feature("sheets: append below the table")
def sheets_append(context):
    sheets = context.sheets.spreadsheets()
    named = {"spreadsheetId": sheets.create(body={}).execute()["spreadsheetId"]}
    values = sheets.values()
    how = {"range": "Sheet1!A1", "valueInputOption": "RAW"}
    first = values.append(**named, **how, body={"values": [["a", "b"]]}).execute()
    equal(("tableRange" in first, first["updates"]["updatedRange"]), (False, "Sheet1!A1:B1"))
    second = values.append(**named, **how, insertDataOption="INSERT_ROWS",
                           body={"values": [["c"], ["d"]]}).execute()
    equal((second["tableRange"], second["updates"]["updatedRange"]),
          ("Sheet1!A1:B1", "Sheet1!A2:A3"))
    equal(values.get(**named, range="Sheet1").execute()["values"], [["a", "b"], ["c"], ["d"]])


@feature("sheets: several ranges at once, and clear")
def sheets_batch(context):
    sheets = context.sheets.spreadsheets()
    named = {"spreadsheetId": sheets.create(body={}).execute()["spreadsheetId"]}
    values = sheets.values()
    data = [{"range": "A1:B1", "values": [["a", "b"]]}, {"range": "A2", "values": [["c"]]}]
    told = values.batchUpdate(**named, body={"valueInputOption": "RAW", "data": data}).execute()
    equal(told["totalUpdatedCells"], 3)
    got = values.batchGet(**named, ranges=["A1", "A2:B2"]).execute()["valueRanges"]
    equal([one.get("values") for one in got], [[["a"]], [["c"]]])
    equal(values.clear(**named, range="A1:A").execute()["clearedRange"], "Sheet1!A1:A1000")
    equal(values.get(**named, range="A1:B2").execute()["values"], [["", "b"]])


@feature("sheets: what is wrong is refused as the reference says")
def sheets_refusals(context):
    sheets = context.sheets.spreadsheets()
    named = {"spreadsheetId": sheets.create(body={}).execute()["spreadsheetId"]}
    values = sheets.values()

    def fails(status, text, call):
        try:
            call.execute()
        except HttpError as error:
            equal(error.status_code, status)
            equal(text in str(error), True)
            return
        raise AssertionError(f"{text} was wanted, and nothing was refused")

    fails(400, "Unable to parse range: None!A1", values.get(**named, range="None!A1"))
    fails(400, "exceeds grid limits", values.get(**named, range="A1001"))
    wide = {"values": [["a", "b"]]}
    fails(400, "tried writing to column [B]",
          values.update(**named, range="A1:A2", valueInputOption="RAW", body=wide))
    fails(400, "valueInputOption", values.update(**named, range="A1", body=wide))
    fails(404, "Requested entity was not found", values.get(spreadsheetId="x", range="A1"))
    theirs = context.api("sheets", "v4", user=1).spreadsheets()
    fails(403, "does not have permission", theirs.get(**named))


@feature("sheets: formulas")
def sheets_formulas(context):
    sheets = context.sheets.spreadsheets()
    named = {"spreadsheetId": sheets.create(body={}).execute()["spreadsheetId"]}
    sheets.values().update(**named, range="A1", valueInputOption="USER_ENTERED",
                           body={"values": [["=1+1"]]}).execute()


@feature("tasks: insert, get, patch, update, complete, delete")
def tasks(context):
    api = build("tasks", "v1", credentials=credentials(), client_options={"api_endpoint": ORIGIN})
    of = {"tasklist": uuid.uuid4().hex}
    due = "2030-05-06T07:08:09.000Z"
    made = api.tasks().insert(**of, body={"title": "a", "due": due}).execute()
    equal(made["due"], "2030-05-06T00:00:00.000Z")
    one = {**of, "task": made["id"]}
    equal(api.tasks().get(**one).execute(), made)
    equal(api.tasks().patch(**one, body={"status": "completed"}).execute()["title"], "a")
    equal("completed" in api.tasks().get(**one).execute(), True)
    equal(api.tasks().update(**one, body={"title": "b"}).execute()["status"], "needsAction")
    newer = api.tasks().insert(**of, body={"title": "c"}).execute()
    listed = api.tasks().list(**of).execute()["items"]
    equal([task["title"] for task in listed], ["c", "b"])
    api.tasks().delete(**of, task=newer["id"]).execute()
    equal(len(api.tasks().list(**of).execute()["items"]), 1)
    lists = api.tasklists().list().execute()["items"]
    equal(of["tasklist"] in {tasklist["id"] for tasklist in lists}, True)


def session(scopes=None):
    from google.auth.transport.requests import AuthorizedSession

    return AuthorizedSession(credentials(0, scopes))


def every_method():
    for api, version in methods.APIS:
        document = json.loads(discovery_cache.get_static_doc(api, version))
        for method in methods.methods(document):
            path = document["servicePath"] + method.get("flatPath", method["path"])
            yield method["id"], method["httpMethod"], path, method["scopes"]


def tried(client, verb, path):
    """A method called with made-up names, which says at least whether it is let in."""
    import re

    path = re.sub(r"\{(calendarId)\}", "primary", path)
    path = re.sub(r"\{userId\}", "me", path)
    path = re.sub(r"\{[^}]*\}", "x", path)
    # No body is any method's, so that nothing is changed but by a few that need none.
    return client.request(verb, f"{ORIGIN}/{path}", data=b"[" if verb != "GET" else None,
                          headers={"content-type": "application/json"})


@feature("every method of the reference is answered, or refused by its name")
def all_methods(_):
    client = session()
    there = 0
    for name, verb, path, _ in every_method():
        answer = tried(client, verb, path)
        error = answer.json()["error"] if answer.status_code >= 400 else {}
        if answer.status_code == 501:
            equal((name, name in error["message"]), (name, True))
        else:
            there += 1
            message = error.get("message", "")
            equal((name, "The method" in message), (name, False))
    equal(there >= 34, True)


@feature("each scope of the reference lets in, and no other")
def all_scopes(_):
    client = session()
    there = [m for m in every_method() if tried(client, *m[1:3]).status_code != 501]
    reasons = lambda answer: [d.get("reason") for d in answer.json()["error"].get("errors", [])]
    scopes = sorted({scope for *_, own in there for scope in own})
    for scope in scopes:
        narrow = session([scope])
        for name, verb, path, own in there:
            answer = tried(narrow, verb, path)
            is_let_in = answer.status_code < 400 or "insufficientPermissions" not in reasons(answer)
            equal((name, scope, is_let_in), (name, scope, scope in own))
            if not is_let_in:
                equal(answer.status_code, 403)
                challenge = answer.headers["www-authenticate"]
                equal('error="insufficient_scope"' in challenge, True)


if __name__ == "__main__":
    run(Context, *sys.argv[1:2] or [""])
