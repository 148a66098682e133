"""A Pub/Sub worker that acts as its users, as it is commonly written: what Fleet is measured against.

A credential is a JSON object in a bucket. It is loaded for every job, refreshed when it has
expired, and saved; there is no lock and no precondition. Clients and connections are made
once and kept. The package `unguarded` is the same worker in Rust.

It needs the variables of Fleet's own workers and works on emulators only, for a token is sent
to FLEET_API_ROOT whatever host a job names. UNGUARDED_EARLY_MS is how long before its expiry a
token counts as expired (225000, as google-auth has it; the short-lived tokens of a measurement
need less). It ends when its standard input does.

    pip install --require-hashes -r requirements.txt
    python worker.py --processes 4 --threads 10
"""

import argparse
import datetime
import json
import logging
import os
import sys
import threading
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import requests
from google.auth import _helpers
from google.auth.transport.requests import Request
from google.cloud import pubsub_v1, storage
from google.cloud.pubsub_v1.subscriber.scheduler import ThreadScheduler
from google.oauth2.credentials import Credentials

log = logging.getLogger("worker")


class BucketCredentials(Credentials):
    """A user's credentials that live in a bucket."""

    @classmethod
    def load(cls, bucket, user):
        blob = bucket.blob(f"users/{user}.json")
        info = json.loads(blob.download_as_bytes())
        # from_authorized_user_info() knows Google's token endpoint only.
        credentials = cls(
            token=info.get("token"),
            refresh_token=info["refresh_token"],
            token_uri=info["token_uri"],
            client_id=info["client_id"],
            client_secret=info["client_secret"],
            scopes=info.get("scopes"),
            expiry=datetime.datetime.fromisoformat(info["expiry"].rstrip("Z")),
        )
        credentials.blob = blob
        return credentials

    def refresh(self, request):
        super().refresh(request)
        self.blob.upload_from_string(self.to_json(), content_type="application/json")


class Worker:
    """Does the jobs of one subscription with a pool of threads."""

    def __init__(self, threads):
        self.root = os.environ["FLEET_API_ROOT"]
        self.bucket = storage.Client().bucket(os.environ["FLEET_BUCKET"])
        self.threads = threads
        self.local = threading.local()

    def session(self):
        """The thread's HTTP session, with its connections."""
        if not hasattr(self.local, "session"):
            self.local.session = requests.Session()
        return self.local.session

    def work(self, job):
        session = self.session()
        credentials = BucketCredentials.load(self.bucket, job["user"])
        if not credentials.valid:
            credentials.refresh(Request(session))
        if job["kind"] == "token":
            return
        params = job.get("params", {})
        if job["kind"] == "profile":
            url = self.root + "/v1/userinfo"
        else:
            asked = urllib.parse.urlsplit(params["url"])
            url = self.root + asked.path + ("?" + asked.query if asked.query else "")
        headers = {**params.get("headers", {}), "Authorization": f"Bearer {credentials.token}"}
        answer = session.request(
            params.get("method", "GET"), url, headers=headers, json=params.get("body"), timeout=30
        )
        answer.raise_for_status()

    def callback(self, message):
        try:
            self.work(json.loads(message.data))
        except Exception as error:
            log.warning("job failed: %s", type(error).__name__)
            message.nack()
        else:
            message.ack()

    def run(self):
        subscriber = pubsub_v1.SubscriberClient()
        subscription = os.environ["FLEET_SUBSCRIPTION"]
        if "/" not in subscription:
            subscription = subscriber.subscription_path(
                os.environ["GOOGLE_CLOUD_PROJECT"], subscription
            )
        pull = subscriber.subscribe(
            subscription,
            callback=self.callback,
            flow_control=pubsub_v1.types.FlowControl(max_messages=self.threads),
            scheduler=ThreadScheduler(ThreadPoolExecutor(max_workers=self.threads)),
        )
        pull.result()


def end_with(descriptor):
    """Ends the process when the other end of a pipe is closed."""

    def wait():
        while os.read(descriptor, 4096):
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processes", type=int, default=1, help="how many workers (1)")
    parser.add_argument("--threads", type=int, default=10, help="jobs at a time per worker (10)")
    args = parser.parse_args()
    logging.basicConfig(level=os.environ.get("UNGUARDED_LOG") or "ERROR")
    early = os.environ.get("UNGUARDED_EARLY_MS")
    if early:
        _helpers.REFRESH_THRESHOLD = datetime.timedelta(milliseconds=int(early))
    if args.processes == 1:
        end_with(sys.stdin.fileno())
        Worker(args.threads).run()
        return
    # Forked after the imports, which cost more than what is measured, and before any client.
    ours, theirs = os.pipe()
    for _ in range(args.processes):
        if os.fork() == 0:
            os.close(theirs)
            end_with(ours)
            Worker(args.threads).run()
            return
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.close(theirs)
    for _ in range(args.processes):
        os.wait()


if __name__ == "__main__":
    main()
