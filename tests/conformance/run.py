#!/usr/bin/env python3
"""Runs Google's clients against servers and writes what they found as a table.

Usage: run.py --ours PROGRAM --table FILE [--clients DIR] [--fake-gcs FILE] [--record]

PROGRAM is the example `serve` of the emulators. The table is written again by each run,
and a feature of ours that the table says passes, or is refused, and that does neither
any more fails the run; with --record nothing is compared. Servers and clients that are
not found are left out, which is said, and their columns stay as the table has them.
"""

import argparse
import concurrent.futures
import contextlib
import glob
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
OURS, PUBSUB, GCS = "Fleet", "Google's emulator", "fake-gcs-server"

# Section of the table: its title, the program, and the servers it runs against.
SECTIONS = [
    ("Pub/Sub, Python", ["python3", "python/pubsub.py"], [OURS, PUBSUB]),
    ("Pub/Sub, Node", ["node", "node/pubsub.js"], [OURS, PUBSUB]),
    ("Pub/Sub, gcloud", ["python3", "gcloud.py", "pubsub"], [OURS, PUBSUB]),
    ("Storage, Python", ["python3", "python/storage.py"], [OURS, GCS]),
    ("Storage, Node", ["node", "node/storage.js"], [OURS, GCS]),
    ("Storage, gcloud", ["python3", "gcloud.py", "storage"], [OURS, GCS]),
    ("Calendar, Drive, Gmail, Sheets and Tasks, Python", ["python3", "python/apis.py"], [OURS]),
    ("Calendar, Drive, Gmail, Sheets and Tasks, Node", ["node", "node/apis.js"], [OURS]),
    ("System tests of google-cloud-pubsub", ["python3", "python/system.py", "pubsub"], [OURS]),
    ("System tests of google-cloud-storage", ["python3", "python/system.py", "storage"], [OURS]),
]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def reached(port, process, seconds=60):
    """Waits until a server takes connections."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise SystemExit(f"the server on port {port} has not started: {process.args}")


def start_ours(program, stack):
    process = subprocess.Popen(
        [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    stack.callback(process.wait)
    stack.callback(process.stdin.close)
    lines = [process.stdout.readline().strip() for _ in range(5)]
    return dict(line.split("=", 1) for line in lines)


def start_google(stack):
    """Google's Pub/Sub emulator, as gcloud starts it; None where it is not installed."""
    gcloud = shutil.which("gcloud")
    if not gcloud or not shutil.which("java"):
        return None
    root = pathlib.Path(gcloud).resolve().parent.parent
    jars = glob.glob(str(root / "platform/pubsub-emulator/lib/cloud-pubsub-emulator-*.jar"))
    if not jars:
        return None
    port = free_port()
    # The Java that the launcher of the SDK would start, without its shell around it.
    process = subprocess.Popen(
        ["java", "-jar", jars[0], "--host=127.0.0.1", f"--port={port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)
    reached(port, process)
    return {"PUBSUB_EMULATOR_HOST": f"127.0.0.1:{port}"}


def start_fake_gcs(program, stack):
    if not program:
        return None
    port = free_port()
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    process = subprocess.Popen(
        [program, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port),
         "-backend", "memory", "-filesystem-root", folder,
         "-external-url", f"http://127.0.0.1:{port}", "-public-host", f"127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)
    reached(port, process)
    return {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}


def run(command, variables, clients):
    """The results of one program against one server, by feature."""
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("GOOGLE_", "CLOUDSDK_"))},
        "PYTHONPATH": os.pathsep.join([str(clients / "python"), str(HERE / "python")]),
        "NODE_PATH": str(HERE / "node" / "node_modules"),
        "GOOGLE_CLOUD_PROJECT": "conformance",
        "GRPC_VERBOSITY": "NONE",
        "SDISTS": str(clients.resolve() / "sdists"),
        **variables,
    }
    done = subprocess.run(
        command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=1800
    )
    found = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            result = json.loads(line)
            found[result["feature"]] = (result["result"], result["why"])
    if not found and "LEFT OUT" not in done.stdout:
        raise SystemExit(f"{command} has said nothing:\n{done.stderr[-2000:]}")
    return found


def recorded(path):
    """The results in a table, by section and feature."""
    found, section, servers = {}, None, []
    for line in path.read_text().splitlines() if path.exists() else []:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("| Feature"):
            servers = cells[1:]
        elif line.startswith("| ") and section and servers:
            found.setdefault(section, {})[cells[0]] = dict(zip(servers, cells[1:]))
    return found


def written(results):
    """The table as text."""
    lines = [
        "# What Google's clients get from the emulators",
        "",
        "Written by `.ci/conformance`: each feature is a small program in `tests/conformance`",
        "that uses Google's own client as its reference page has it, against our emulators and",
        "against Google's Pub/Sub emulator or fake-gcs-server. Of the APIs, whose methods, parameters and",
        "scopes are the published discovery documents', nobody else has an emulator.",
        "",
        "*pass*: the answer is the service's. *refused*: a clear 501 or `UNIMPLEMENTED` that names",
        "what is missing. *fail*: anything else. A run fails when our column falls below this.",
        "*left out*, of the system tests that the clients carry: it needs a project's service account or",
        "another service; the run says which.",
        "",
    ]
    for section, _, servers in SECTIONS:
        features = results.get(section)
        if not features:
            continue
        count = {
            server: sum(cells.get(server) == "pass" for cells in features.values())
            for server in servers
        }
        total = len(features)
        lines += [f"## {section}", ""]
        lines += [", ".join(f"{s}: {count[s]} of {total}" for s in servers) + ".", ""]
        lines += ["| Feature | " + " | ".join(servers) + " |", "|---" * (len(servers) + 1) + "|"]
        for feature, cells in features.items():
            row = [feature] + [cells.get(server, "not run") for server in servers]
            lines.append("| " + " | ".join(row) + " |")
        lines.append("")
    return "\n".join(lines)


def worse(before, now):
    order = {"fail": 0, "not run": 0, "refused": 1, "pass": 2}
    return order.get(now, 0) < order.get(before, 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--ours", required=True, type=pathlib.Path)
    parser.add_argument("--table", required=True, type=pathlib.Path)
    parser.add_argument("--clients", type=pathlib.Path, default=HERE)
    parser.add_argument("--fake-gcs", default=os.environ.get("FLEET_FAKE_GCS_SERVER"))
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--only", default="", help="sections whose title has this")
    asked = parser.parse_args()

    before = recorded(asked.table)
    results = {section: dict(before.get(section, {})) for section, _, _ in SECTIONS}
    regressions = []
    with contextlib.ExitStack() as stack:
        servers = {
            OURS: start_ours(asked.ours, stack),
            PUBSUB: start_google(stack),
            GCS: start_fake_gcs(asked.fake_gcs, stack),
        }
        for server, variables in servers.items():
            if variables is None:
                print(f"LEFT OUT {server}: it is not installed")
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(2))
        jobs = {
            (section, server): pool.submit(run, command, servers[server], asked.clients)
            for section, command, against in SECTIONS
            for server in against
            if servers[server] is not None and asked.only in section
        }
        for section, _, _ in SECTIONS:
            table = {}
            for server in (OURS, PUBSUB, GCS):
                job = jobs.get((section, server))
                if job is None:
                    continue
                found = job.result()
                if not found:
                    print(f"LEFT OUT {section}: the client is not installed")
                for feature, (result, why) in found.items():
                    table.setdefault(feature, {})[server] = result
                    if server == OURS and result != "pass":
                        print(f"{section}: {feature}: {result}: {why}")
                    was = before.get(section, {}).get(feature, {}).get(server, "fail")
                    if server == OURS and worse(was, result):
                        regressions.append(f"{section}: {feature}: {was} before, {result} now")
            if not table:
                continue
            old = before.get(section, {})
            results[section] = {f: {**old.get(f, {}), **table[f]} for f in sorted(table)}
            lost = [f for f in old if f not in table]
            for feature in lost:
                regressions.append(f"{section}: {feature}: in the table, and no feature any more")
    asked.table.write_text(written(results))
    for section, features in results.items():
        ours = [cells.get(OURS) for cells in features.values()]
        if ours:
            print(f"{section}: {ours.count('pass')} of {len(ours)} pass, "
                  f"{ours.count('refused')} refused")
    if regressions and not asked.record:
        print("below what was recorded:\n  " + "\n  ".join(regressions), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
