"""A Pub/Sub worker that acts as its users, on Google's clients for Python: what a replica of the
fleet is measured beside.

With BENCH_CACHE=1 a user's credential is read from the bucket once and kept in memory. Without, it
is read for each job, as most such programs are written. google-auth renews it. A token is sent to
FLEET_API_ROOT whatever host a job names.
"""

import json
import os
import sys
import threading
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import requests
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.auth.transport.requests import AuthorizedSession
from google.cloud import pubsub_v1, storage
from google.cloud.pubsub_v1.subscriber.scheduler import ThreadScheduler
from google.oauth2.credentials import Credentials

SLOTS = int(os.environ["BENCH_SLOTS"])
CACHE = os.environ["BENCH_CACHE"] == "1"
ROOT = os.environ["FLEET_API_ROOT"]
HANDLER = os.environ["BENCH_HANDLER"]

client = storage.Client(
    project=os.environ["GOOGLE_CLOUD_PROJECT"],
    credentials=AnonymousCredentials(),
    client_options=ClientOptions(api_endpoint=os.environ["STORAGE_EMULATOR_HOST"]),
)
pool = requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=SLOTS)
client._http.mount("https://", pool)
tokens = client.bucket(os.environ["FLEET_BUCKET"])
plain = requests.Session()
plain.mount("http://", requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=SLOTS))
local = threading.local()
users = {}


def load(user):
    kept = json.loads(tokens.blob(f"users/{user}.json").download_as_bytes())
    return Credentials(
        token=kept["token"],
        refresh_token=kept["refresh_token"],
        token_uri=kept["token_uri"],
        client_id=kept["client_id"],
        client_secret=kept["client_secret"],
        expiry=datetime.fromisoformat(kept["expiry"].rstrip("Z")),
    )


def credentials(user):
    if not CACHE:
        return load(user)
    if user not in users:
        # Two threads may read the same one, and the last stays.
        users[user] = load(user)
    return users[user]


def session(user):
    """A session of the thread's own, with its connections, that acts as the user."""
    if not hasattr(local, "pool"):
        local.pool = requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=2)
    acting = AuthorizedSession(credentials(user))
    acting.mount("https://", local.pool)
    return acting


def write(output, content):
    bucket, _, name = output.removeprefix("gs://").partition("/")
    blob = client.bucket(bucket).blob(name)
    blob.upload_from_string(content, if_generation_match=0)


def work(data):
    job = json.loads(data)
    if job["kind"] == "forwarded":
        headers = {"content-type": "application/json"}
        plain.post(HANDLER, data=data, headers=headers).raise_for_status()
        return
    params = job["params"]
    asked = urllib.parse.urlsplit(params["url"])
    acting = session(job["user"])
    answer = acting.get(ROOT + asked.path, params=urllib.parse.parse_qs(asked.query))
    answer.raise_for_status()
    if not params.get("paginate"):
        if params.get("output"):
            write(params["output"], answer.content)
        return
    lines = []
    while True:
        page = answer.json()
        lines += (json.dumps(item) + "\n" for item in page["items"])
        if "nextPageToken" not in page:
            break
        answer = acting.get(ROOT + asked.path, params={"pageToken": page["nextPageToken"]})
        answer.raise_for_status()
    write(params["output"], "".join(lines))


def callback(message):
    try:
        work(message.data)
    except Exception as error:
        print(repr(error), file=sys.stderr)
        message.nack()
    else:
        message.ack()


subscriber = pubsub_v1.SubscriberClient()
pull = subscriber.subscribe(
    os.environ["FLEET_SUBSCRIPTION"],
    callback=callback,
    flow_control=pubsub_v1.types.FlowControl(max_messages=SLOTS),
    scheduler=ThreadScheduler(ThreadPoolExecutor(max_workers=SLOTS)),
)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
pull.result()
