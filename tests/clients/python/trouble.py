"""The page's handler (greet.py), and the troubles that a job asks for."""

import os
import time

import functions_framework
import google.auth.exceptions
import google.auth.transport.requests
import google.oauth2.credentials
import greet as page
from google.auth.external_account_authorized_user import Credentials
from google.cloud import storage
from googleapiclient.discovery import build

DRIVE = "https://www.googleapis.com/auth/drive.readonly"
REQUEST = google.auth.transport.requests.Request()
kept = {}


def is_refused(credentials):
    try:
        Credentials.from_info(credentials).refresh(REQUEST)
    except google.auth.exceptions.GoogleAuthError:
        return True
    return False


def store(job, credentials):
    client = storage.Client(project="fake", credentials=credentials)
    blob = client.bucket("exports").blob(f"python/{job['user']} 1.txt")
    blob.upload_from_string(job["params"]["title"])
    assert blob.download_as_text() == job["params"]["title"]
    names = [found.name for found in client.list_blobs("exports", prefix="python/")]
    assert blob.name in names, names


@functions_framework.cloud_event
def greet(event):
    job = event.data
    says, first = job["params"].get("says"), job["attempt"] == 1
    info = job["credentials"]
    # For the test alone, which looks for them in everything that was written.
    with open(os.environ["HANDLES"], "a", encoding="utf-8") as handles:
        handles.write(info["client_secret"] + "\n")
    if says == "raise" and first:
        raise RuntimeError("before the effect")
    if says == "crash" and first:
        os._exit(1)
    if says == "slow":
        time.sleep(float(job["params"]["seconds"]))
    if says == "kept":
        assert kept and is_refused(kept), "a handle outlived its job"
    if says == "other":
        assert is_refused({**info, "refresh_token": job["params"]["other"]}), "another user's token"
    if says == "store":
        store(job, Credentials.from_info(info))
    if says == "drive":
        options = {"api_endpoint": os.environ["FLEET_API_ROOT"] + "/drive/v3/"}
        credentials = Credentials.from_info(info)
        build("drive", "v3", credentials=credentials, client_options=options).files().list().execute()
    page.greet(event)
    if says == "keep":
        kept.update(info)
    if says == "linger":
        print("lingers", flush=True)
        time.sleep(float(job["params"]["seconds"]))
        print("has ended", flush=True)
    if says == "raise after":
        raise RuntimeError("after the effect")
    if says == "noted":
        more = {name: info[name] for name in ("token_uri", "client_id", "client_secret")}
        # Raises: the user has not granted this.
        google.oauth2.credentials.Credentials(
            None, refresh_token=info["refresh_token"], scopes=[DRIVE], **more
        ).refresh(REQUEST)
