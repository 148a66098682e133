"""Pub/Sub and Cloud Storage as gcloud uses them, where it is installed.

Usage: gcloud.py pubsub|storage; PUBSUB_EMULATOR_HOST or STORAGE_EMULATOR_HOST says where.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import uuid

PROJECT = "conformance"


def gcloud(*arguments, folder):
    environment = {
        **os.environ,
        "CLOUDSDK_CONFIG": str(folder / "config"),
        "CLOUDSDK_CORE_PROJECT": PROJECT,
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_PUBSUB":
            f"http://{os.environ.get('PUBSUB_EMULATOR_HOST', '')}/",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE":
            f"{os.environ.get('STORAGE_EMULATOR_HOST', '')}/storage/v1/",
        "CLOUDSDK_STORAGE_PROCESS_COUNT": "1",
    }
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        ["gcloud", *arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        raise RuntimeError(" ".join((done.stderr or done.stdout).split())[-300:])
    return done.stdout


def pubsub(folder):
    topic, subscription = (f"t-{uuid.uuid4().hex[:12]}" for _ in range(2))
    yield "topics create", lambda: gcloud("pubsub", "topics", "create", topic, folder=folder)
    yield "subscriptions create", lambda: gcloud(
        "pubsub", "subscriptions", "create", subscription, f"--topic={topic}",
        "--enable-message-ordering", "--ack-deadline=30", folder=folder)
    yield "topics publish", lambda: gcloud(
        "pubsub", "topics", "publish", topic, "--message=hello", "--attribute=kind=note",
        "--ordering-key=k", folder=folder)

    def pull():
        answer = gcloud(
            "pubsub", "subscriptions", "pull", subscription, "--auto-ack", "--format=json",
            folder=folder)
        (got,) = json.loads(answer)
        assert got["message"]["data"] == "aGVsbG8=", answer
        assert got["message"]["attributes"] == {"kind": "note"}, answer

    yield "subscriptions pull --auto-ack", pull
    yield "subscriptions update", lambda: gcloud(
        "pubsub", "subscriptions", "update", subscription, "--ack-deadline=60", folder=folder)
    yield "snapshots create", lambda: gcloud(
        "pubsub", "snapshots", "create", f"s-{subscription}", f"--subscription={subscription}",
        folder=folder)
    yield "subscriptions seek", lambda: gcloud(
        "pubsub", "subscriptions", "seek", subscription, f"--snapshot=s-{subscription}",
        folder=folder)

    def listed():
        names = gcloud("pubsub", "topics", "list", "--format=value(name)", folder=folder)
        assert f"projects/{PROJECT}/topics/{topic}" in names.split(), names

    yield "topics list", listed
    yield "subscriptions delete", lambda: gcloud(
        "pubsub", "subscriptions", "delete", subscription, folder=folder)
    yield "topics delete", lambda: gcloud("pubsub", "topics", "delete", topic, folder=folder)


def storage(folder):
    bucket = f"gs://b-{uuid.uuid4().hex[:12]}"
    small, large = folder / "small.txt", folder / "large.bin"
    small.write_bytes(b"hello\nworld\n")
    large.write_bytes(os.urandom(12 << 20))

    def both(*files):
        for file in files:
            back = folder / f"back-{file.name}"
            gcloud("storage", "cp", f"{bucket}/{file.name}", str(back), folder=folder)
            assert back.read_bytes() == file.read_bytes(), file.name

    def up(file):
        return lambda: gcloud("storage", "cp", str(file), f"{bucket}/", folder=folder)

    yield "buckets create", lambda: gcloud("storage", "buckets", "create", bucket, folder=folder)
    yield "cp up, a small file", up(small)
    yield "cp up, 12 MiB", up(large)
    yield "cp down, a small file", lambda: both(small)
    yield "cp down, 12 MiB", lambda: both(large)

    def listed():
        names = gcloud("storage", "ls", bucket, folder=folder).split()
        assert sorted(names) == [f"{bucket}/large.bin", f"{bucket}/small.txt"], names

    yield "ls", listed

    def cat():
        found = gcloud("storage", "cat", f"{bucket}/small.txt", folder=folder)
        assert found == small.read_text(), found

    yield "cat", cat
    yield "objects update", lambda: gcloud(
        "storage", "objects", "update", f"{bucket}/small.txt", "--custom-metadata=a=1",
        folder=folder)
    yield "cp between names", lambda: gcloud(
        "storage", "cp", f"{bucket}/small.txt", f"{bucket}/copy.txt", folder=folder)
    yield "buckets update", lambda: gcloud(
        "storage", "buckets", "update", bucket, "--update-labels=team=fleet", folder=folder)
    yield "rm --recursive", lambda: gcloud(
        "storage", "rm", "--recursive", bucket, folder=folder)


def main():
    if not shutil.which("gcloud"):
        print("LEFT OUT gcloud: it is not installed")
        return
    with tempfile.TemporaryDirectory() as folder:
        for feature, work in {"pubsub": pubsub, "storage": storage}[sys.argv[1]](
            pathlib.Path(folder)
        ):
            try:
                work()
                result, why = "pass", ""
            except Exception as error:  # noqa: BLE001 - a feature may end in any way
                why = f"{type(error).__name__}: {error}"
                unimplemented = "501" in why or "does not implement" in why
                result = "refused" if unimplemented else "fail"
            print(json.dumps({"feature": feature, "result": result, "why": why}), flush=True)


if __name__ == "__main__":
    main()
