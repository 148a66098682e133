"""One cause pages once: monitoring/alertmanager.yaml in a real Alertmanager.

    python3 alertmanager_test.py ALERTMANAGER

Everything stays as it is deployed but the receivers' addresses and the times for
which notifications are collected. Alertmanager listens on loopback.
"""

import json
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import yaml

MONITORING = Path(__file__).resolve().parents[1] / "monitoring"
# The alerts that are about one Deployment, and which there are.
DEPLOYMENTS = {"FleetReplicasUnavailable": ["fleet-worker", "fleet-web"]}
# What happens, which alerts fire for it in this order (after a slash: of which Deployment), and what somebody is
# told, by receiver.
CAUSES = [
    (
        "one invalid_client",
        ["FleetOAuthClientRefused", "FleetRefreshesFail", "FleetIntakePaused", "FleetReplicasNotReady",
         "FleetReplicasUnavailable/fleet-worker", "FleetReplicasUnavailable/fleet-web", "FleetPagesNotReady", "FleetJobsLate", "FleetCredentialsLate", "FleetJobsWait"],
        {"page": {"FleetOAuthClientRefused"}},
    ),
    (
        "a wrong keyring",
        ["FleetRecordsUnusable", "FleetJobsFail", "FleetIntakePaused", "FleetReplicasNotReady", "FleetDeliveriesGoBack"],
        {"page": {"FleetRecordsUnusable"}},
    ),
    (
        "workers that crash before they serve",
        ["FleetReplicasUnavailable/fleet-worker", "FleetReplicasAbsent", "FleetJobsWait", "FleetJobsLate"],
        {"page": {"FleetReplicasAbsent"}},
    ),
    (
        "a topic that is gone",
        ["FleetIntakePaused", "FleetReplicasNotReady", "FleetReplicasUnavailable/fleet-worker", "FleetJobsWait"],
        {"page": {"FleetIntakePaused"}},
    ),
    (
        "workers that are not ready",
        ["FleetReplicasNotReady", "FleetReplicasUnavailable/fleet-worker"],
        {"page": {"FleetReplicasNotReady"}},
    ),
    (
        "workers for which there is no node",
        ["FleetReplicasUnavailable/fleet-worker", "FleetJobsWait", "FleetJobsLate"],
        {"page": {"FleetReplicasUnavailable"}},
    ),
    (
        "pages that are not ready",
        ["FleetPagesNotReady", "FleetReplicasUnavailable/fleet-web"],
        {"page": {"FleetPagesNotReady"}},
    ),
    (
        "pages that are not ready, and jobs that wait for another reason",
        ["FleetPagesNotReady", "FleetReplicasUnavailable/fleet-web", "FleetJobsWait"],
        {"page": {"FleetPagesNotReady", "FleetJobsWait"}},
    ),
    (
        "workers that are not ready, and a page for which there is no node",
        ["FleetReplicasNotReady", "FleetReplicasUnavailable/fleet-web"],
        {"page": {"FleetReplicasNotReady", "FleetReplicasUnavailable"}},
    ),
    ("an API that fails for everybody", ["FleetJobsFail", "FleetDeliveriesGoBack", "FleetJobsWait"], {"page": {"FleetJobsFail"}}),
    (
        "a handler that is down",
        ["FleetHandlerDown", "FleetReplicasNotReady", "FleetReplicasUnavailable/fleet-worker", "FleetDeliveriesGoBack"],
        {"page": {"FleetHandlerDown"}},
    ),
    (
        "two things at once",
        ["FleetOAuthClientRefused", "FleetHandlerDown", "FleetDeadLetters"],
        {"page": {"FleetOAuthClientRefused", "FleetHandlerDown"}, "ticket": {"FleetDeadLetters"}},
    ),
]


def alerts():
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule["labels"] for group in groups for rule in reversed(group["rules"]) if "alert" in rule}


def parsed(matcher):
    """The label, whether the value is an expression, and the value."""
    label, value = re.fullmatch(r'(\w+)(=~?".*")', matcher).groups()
    return label, value.startswith("=~"), value.lstrip("=~").strip('"')


def names(matchers):
    for label, _, value in map(parsed, matchers):
        if label == "alertname":
            yield from value.split("|")


def matches(matchers, labels):
    return all(
        re.fullmatch(value if is_expression else re.escape(value), labels.get(label, ""))
        for label, is_expression, value in map(parsed, matchers)
    )


def every_alert():
    """The labels of every alert that may fire, as far as inhibition looks at them."""
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in (rule for group in groups for rule in group["rules"] if "alert" in rule):
        for deployment in DEPLOYMENTS.get(rule["alert"], [""]):
            yield {"alertname": rule["alert"], "severity": rule["labels"]["severity"], "deployment": deployment}


def circles(rules):
    """Alerts that mute each other, or themselves by way of others: nobody would be told of any of them."""
    alerts = list(every_alert())
    mutes = {
        source: {
            target
            for rule in rules if matches(rule["source_matchers"], alerts[source])
            for target, labels in enumerate(alerts) if matches(rule["target_matchers"], labels)
        }
        for source in range(len(alerts))
    }
    for start, reached in mutes.items():
        seen, left = set(), list(reached)
        while left:
            at = left.pop()
            if at not in seen:
                seen.add(at)
                left.extend(mutes[at])
        if start in seen:
            yield " ".join(filter(None, alerts[start].values()))


class Receiver(HTTPServer):
    """Collects who was told what."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.told = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for alert in body["alerts"]:
            key = (alert["labels"]["cause"], body["receiver"])
            self.server.told.setdefault(key, set()).add(alert["labels"]["alertname"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def shortened(node, address):
    """The configuration with our addresses and short times."""
    if isinstance(node, list):
        return [shortened(item, address) for item in node]
    if not isinstance(node, dict):
        return node
    short = {"url": address, "group_wait": "1s", "group_interval": "1s"}
    return {key: short.get(key, shortened(value, address)) for key, value in node.items()}


def post(port, body):
    data = json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/v2/alerts", data, headers)
    urllib.request.urlopen(request, timeout=5).close()


def free_port():
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        return server.server_port


def run(alertmanager, config, known):
    receiver = Receiver()
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "alertmanager.yaml")
        path.write_text(yaml.safe_dump(shortened(config, f"http://127.0.0.1:{receiver.server_port}/")))
        command = [alertmanager, f"--config.file={path}", f"--storage.path={folder}/data",
                   f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
        with open(Path(folder, "log"), "wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    post(port, [])
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        sys.exit(Path(folder, "log").read_text())
                    time.sleep(0.1)
            # Each cause is a fleet of its own, so that none inhibits another's. A marker that nothing
            # inhibits comes last: when it was told, so was everything before it.
            for number, (_, fired, _) in enumerate(CAUSES):
                for name, _, deployment in (alert.partition("/") for alert in fired):
                    extra = {"deployment": deployment} if deployment else {}
                    labels = {**extra, **known[name], "alertname": name, "environment": f"fleet-{number}", "cause": str(number)}
                    post(port, [{"labels": labels}])
            post(port, [{"labels": {"alertname": "Marker", "environment": "marker", "severity": "page", "cause": "marker"}}])
            while ("marker", "page") not in receiver.told and time.monotonic() < deadline:
                time.sleep(0.1)
            # Whatever a second round of each group would add.
            time.sleep(3)
        finally:
            process.terminate()
            process.wait()
    return receiver.told


def main():
    config = yaml.safe_load((MONITORING / "alertmanager.yaml").read_text(encoding="utf-8"))
    known = alerts()
    faults = []
    for rule in config["inhibit_rules"]:
        for name in [*names(rule["source_matchers"]), *names(rule["target_matchers"])]:
            if name not in known:
                faults.append(f"inhibits by {name}, which is no alert")
        if "environment" not in rule["equal"]:
            faults.append(f"{rule['source_matchers']} of one fleet inhibits another's")
    faults.extend(f"{alert} mutes what mutes it" for alert in circles(config["inhibit_rules"]))
    told = run(sys.argv[1], config, known)
    for number, (cause, _, expected) in enumerate(CAUSES):
        found = {receiver: names for (by, receiver), names in told.items() if by == str(number)}
        if found != expected:
            faults.append(f"{cause}: told {found}, not {expected}")
    print("\n".join(faults) if faults else f"{len(CAUSES)} causes, each told once")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
