#!/usr/bin/env python3
"""kubectl, gcloud and terraform for the run book's test (tests/tests/runbook.rs), under these names on PATH.

Each call is written down in calls.log of the folder STANDIN. What changes a fleet does so: pods are real
`fleet worker` processes on the emulators, started with the newest versions of the secrets, and
buckets and subscriptions are the emulators'. What only looks is written down and answered with nothing.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

HOME = Path(os.environ["STANDIN"])
POD = json.loads((HOME / "pod.json").read_text())
ENVIRONMENT, FLEET = POD["environment"], POD["fleet"]
WITHIN = 60


def fail(why):
    sys.exit(f"{Path(sys.argv[0]).name}: {why}")


def flag(arguments, name):
    values = [a.removeprefix(f"--{name}=") for a in arguments if a.startswith(f"--{name}=")]
    return values[-1] if values else None


def wait(what, holds):
    end = time.monotonic() + WITHIN
    while not holds():
        if time.monotonic() > end:
            fail(f"{what} within {WITHIN} s")
        time.sleep(0.1)


# Secrets


def versions(name):
    folder = HOME / "secrets" / name
    return sorted(folder.iterdir(), key=lambda path: int(path.name)) if folder.is_dir() else []


def secrets(arguments):
    verb = arguments[1]
    if verb == "add":
        name, file = arguments[2], flag(arguments, "data-file")
        folder = HOME / "secrets" / name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / str(len(versions(name)) + 1))
    elif verb == "access":
        known = versions(flag(arguments, "secret"))
        wanted = [path for path in known if path.name == arguments[2]] if arguments[2] != "latest" else known[-1:]
        if not wanted:
            fail(f"there is no version {arguments[2]}")
        shutil.copyfile(wanted[0], flag(arguments, "out-file"))


# Pods


def pods(deployment):
    return sorted((HOME / "pods").glob(f"{deployment}-*"))


def start(deployment):
    number = int((HOME / "started").read_text()) + 1
    (HOME / "started").write_text(str(number))
    pod = HOME / "pods" / f"{deployment}-{number}"
    pod.mkdir(parents=True)
    environment = dict(ENVIRONMENT)
    for secret, file, variable in [
        ("fleet-keyring", "keyring.json", "FLEET_KEYRING"),
        ("fleet-oauth-client", "client.json", "FLEET_OAUTH_CLIENT"),
    ]:
        mounted = pod / file
        mounted.touch(0o600)
        mounted.write_bytes(versions(secret)[-1].read_bytes())
        environment[variable] = str(mounted)
    (pod / "environment").write_text(json.dumps(environment))
    if deployment != "fleet-worker":
        return
    command = [FLEET, "worker", "--listen=127.0.0.1:0", "--ack-extension=10s", "--until-stdin-closes"]
    with open(pod / "log", "wb") as log, open(HOME / "alive") as alive:
        # It ends when the test does.
        process = subprocess.Popen(command, env=environment, stdin=alive, stdout=log, stderr=log, start_new_session=True)
    (pod / "pid").write_text(str(process.pid))


def stop(pod):
    if (pod / "pid").exists():
        pid = int((pod / "pid").read_text())
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        wait(f"pod {pod.name} does not end", lambda: not runs(pid))
    shutil.rmtree(pod)


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def scale(deployment, replicas):
    for pod in pods(deployment)[replicas:]:
        stop(pod)
    while len(pods(deployment)) < replicas:
        start(deployment)


def restart(deployment):
    replicas = len(pods(deployment))
    scale(deployment, 0)
    scale(deployment, replicas)


def is_ready(pod):
    return not (pod / "log").exists() or b'"taking jobs"' in (pod / "log").read_bytes()


def execute(arguments):
    target, command = arguments[0].removeprefix("deploy/"), arguments[arguments.index("--") + 1 :]
    running = pods(target)
    if not running:
        fail(f"no pod of {target}")
    if command[0] not in ("/usr/local/bin/fleet", "fleet"):
        fail(f"the image has no {command[0]}")
    environment = json.loads((running[0] / "environment").read_text())
    os.execve(FLEET, [FLEET, *command[1:]], environment)


def deployments(arguments):
    named = [a.removeprefix("deploy/") for a in arguments if a.startswith("deploy/")]
    return named or ["fleet-worker", "fleet-web"]


def kubectl(arguments):
    if arguments[:2] == ["-n", "fleet"]:
        arguments = arguments[2:]
    match arguments:
        case ["exec", *rest]:
            execute([a for a in rest if a != "-i"])
        case ["scale", *rest]:
            for deployment in deployments(rest):
                scale(deployment, int(flag(rest, "replicas")))
        case ["rollout", "restart" | "undo", *rest]:
            for deployment in deployments(rest):
                restart(deployment)
        case ["rollout", "status", *rest]:
            for deployment in deployments(rest):
                running = pods(deployment)
                if not running:
                    fail(f"{deployment} has no pods, so that nothing is rolled out")
                wait(f"{deployment} is not ready", lambda: all(is_ready(pod) for pod in running))
        # Whoever deploys may; what operators may do is held against their role by a test.
        case ["apply", "-k", folder]:
            if not (Path(POD["repository"]) / folder / "kustomization.yaml").is_file():
                fail(f"{folder} is no overlay")
        case ["wait", "--for=delete", "pod", *_]:
            wait("pods do not go", lambda: not list((HOME / "pods").iterdir()))
        case ["get" | "describe" | "logs", *_]:
            pass
        case _:
            fail(f"unknown: {arguments}")


# Buckets and Pub/Sub


def request(url, body=None, method="POST"):
    content = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, content, headers, method=method)) as answer:
        return json.load(answer)


def copy(source, target, clobber):
    """`cp --recursive`: a folder goes, with its name, into the target."""
    origin = ENVIRONMENT["STORAGE_EMULATOR_HOST"]
    (from_bucket, folder), (to_bucket, into) = (a.removeprefix("gs://").split("/", 1) for a in (source, target))
    base = f"{origin}/storage/v1/b/{from_bucket}/o"
    found = request(f"{base}?prefix={urllib.parse.quote(folder)}/", method="GET").get("items", [])
    if not found:
        fail(f"{source} matches nothing")
    for item in found:
        name = into + folder.rsplit("/", 1)[-1] + item["name"].removeprefix(folder)
        names = [urllib.parse.quote(n, safe="") for n in (item["name"], name)]
        url = f"{base}/{names[0]}/rewriteTo/b/{to_bucket}/o/{names[1]}"
        try:
            request(url + ("" if clobber else "?ifGenerationMatch=0"), {"metadata": item.get("metadata", {})})
        except urllib.error.HTTPError as error:
            if clobber or error.code != 412:
                raise


def gcloud(arguments):
    match arguments:
        case ["secrets", *rest]:
            secrets(rest)
        case ["storage", "cp", "--recursive", *rest]:
            paths = [a for a in rest if a.startswith("gs://")]
            copy(*paths, "--no-clobber" not in rest)
        case ["pubsub", "subscriptions", "seek", name, *rest]:
            project = ENVIRONMENT["GOOGLE_CLOUD_PROJECT"]
            url = f"http://{ENVIRONMENT['PUBSUB_EMULATOR_HOST']}/v1/projects/{project}/subscriptions/{name}:seek"
            request(url, {"time": flag(rest, "time")})
        case ["container", *_] | ["logging", "read", *_] | ["services", *_]:
            pass
        case _:
            fail(f"unknown: {arguments}")


def terraform(arguments):
    if arguments[1:] == ["output", "-raw", "keyring_kms_key"]:
        print(POD["kms_key"], end="")


def main():
    name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    with open(HOME / "calls.log", "a") as log:
        log.write(f"{name} {' '.join(arguments)}\n")
    {"kubectl": kubectl, "gcloud": gcloud, "terraform": terraform}[name](arguments)


main()
