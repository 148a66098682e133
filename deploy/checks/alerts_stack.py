"""One fleet with what it needs: `fleet dev`, workers, pages, a Prometheus, and switches for faults."""

import base64
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
USERS = 20
# So many are published every five seconds.
JOBS = 5
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "content-length"}
ENDED = ('outcome="done"', 'outcome="parked"', 'outcome="rejected"')


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        """Somebody who was stopped does not wait for an answer."""


def serve(handler):
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def proxy(target, fault):
    """Passes requests on to `target`, unless `fault(path)` says what to answer in its place: a status and a
    body, or "lost" for an answer that is made there and never arrives."""

    class Proxy(Quiet):
        def pass_on(self):
            body = self.body()
            wanted = fault(self.path)
            if wanted and wanted != "lost":
                self.answer(wanted[0], wanted[1], [("Content-Type", "application/json")])
                return
            connection = HTTPConnection(target.removeprefix("http://"), timeout=30)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP}
            try:
                connection.request(self.command, self.path, body or None, headers)
                answer = connection.getresponse()
                content = answer.read()
            except OSError:
                self.close_connection = True
                return
            finally:
                connection.close()
            if wanted == "lost":
                self.close_connection = True
                return
            kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in HOP_BY_HOP]
            self.answer(answer.status, content, kept)

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = pass_on

    return f"http://127.0.0.1:{serve(Proxy).server_port}"


def pipe(target, cut):
    """Passes connections on to `target`, and drops them while `cut()`."""
    listener = socket.create_server(("127.0.0.1", 0))
    host, port = target.rsplit(":", 1)

    def copy(source, sink):
        try:
            while data := source.recv(65536):
                if cut():
                    break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def accept():
        while True:
            near, _ = listener.accept()
            if cut():
                near.close()
                continue
            far = socket.create_connection((host, int(port)))
            for ends in ((near, far), (far, near)):
                threading.Thread(target=copy, args=ends, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return f"127.0.0.1:{listener.getsockname()[1]}"


class Stack:
    """One fleet. What a fault needs to be switched on is in `faults` and `settings`."""

    def __init__(self, options, name, rules=lambda text: text):
        self.options = options
        self.name = name
        self.rules = rules
        self.folder = Path(tempfile.mkdtemp(prefix=f"fleet-alerts-{name}-"))
        self.processes = {}
        # When each job was published, and how many have ended.
        self.published = []
        self.ended = 0
        self.counted = {}
        self.dead = 0
        # What is answered in somebody's place: by `/token`, `/` (APIs) and `storage`.
        self.faults = {}
        # Of the jobs that are published together so many are of this kind.
        self.settings = {"flags": [], "odd": 0, "kind": "nonesuch", "count-dead": False}
        self.stopping = threading.Event()

    def start(self):
        command = [self.options.fleet, "dev", "--replicas=0", "--web=0", f"--users={USERS}", "--json"]
        log = open(self.folder / "dev.log", "wb")
        dev = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=self.clean())
        self.processes["dev"] = dev
        text = b""
        for line in dev.stdout:
            text += line
            if line.rstrip() == b"}":
                break
        self.environment = json.loads(text)
        self.pubsub = self.environment["PUBSUB_EMULATOR_HOST"]
        google, storage = self.environment["FLEET_API_ROOT"], self.environment["STORAGE_EMULATOR_HOST"]
        origin = proxy(google, lambda path: self.fault("/token" if path.startswith("/token") else "/"))
        client = json.loads(Path(self.environment["FLEET_OAUTH_CLIENT"]).read_text())
        for kind in client.values():
            before, kind["token_uri"] = kind["token_uri"], f"{origin}/token"
        self.move(before, f"{origin}/token")
        path = self.folder / "client.json"
        path.touch(0o600)
        path.write_text(json.dumps(client))
        self.port_of_pages = free_port()
        self.environment |= {
            "FLEET_OAUTH_CLIENT": str(path),
            "FLEET_API_ROOT": origin,
            "FLEET_USERINFO_URL": self.environment["FLEET_USERINFO_URL"].replace(google, origin),
            "STORAGE_EMULATOR_HOST": proxy(storage, lambda _: self.fault("storage")),
            "STORAGE_EMULATOR_HOST_GRPC": pipe(
                self.environment["STORAGE_EMULATOR_HOST_GRPC"], lambda: self.faults.get("cut", False)),
            "FLEET_PUBLIC_URL": f"http://127.0.0.1:{self.port_of_pages}",
        }
        self.exporter = serve(self.exporter_handler())
        for number in range(2):
            self.worker(number)
        self.run("web", ["web", f"--listen=127.0.0.1:{self.port_of_pages}"])
        for job in (self.publish, self.probe):
            threading.Thread(target=job, daemon=True).start()
        self.prometheus()

    def fault(self, place):
        wanted = self.faults.get(place)
        return wanted() if callable(wanted) else wanted

    def move(self, before, after):
        """A record belongs to its token endpoint: those of the stack to the one behind our switch."""
        base = f"{self.environment['STORAGE_EMULATOR_HOST']}/storage/v1/b/{self.environment['FLEET_BUCKET']}/o"
        with urllib.request.urlopen(f"{base}?prefix=tokens/") as answer:
            names = [item["name"] for item in json.load(answer)["items"]]
        # One object takes one write a second, and these were just written.
        time.sleep(1.5)
        for name in names:
            quoted = urllib.parse.quote(name, safe="")
            with urllib.request.urlopen(f"{base}/{quoted}?alt=media") as answer:
                content = answer.read().replace(before.encode(), after.encode())
            upload = base.replace("/storage/", "/upload/storage/", 1) + f"?uploadType=media&name={quoted}"
            headers = {"Content-Type": "application/json"}
            urllib.request.urlopen(urllib.request.Request(upload, content, headers, method="POST")).close()

    def clean(self):
        return {k: v for k, v in os.environ.items() if not k.startswith("FLEET_") and not k.endswith("EMULATOR_HOST")}

    # What no emulator has: Pub/Sub's and Kubernetes' own metrics, by what this program knows.

    def exporter_handler(self):
        stack = self

        class Exporter(Quiet):
            def do_GET(self):
                waiting = max(0, len(stack.published) - stack.ended)
                oldest = time.time() - stack.published[stack.ended] if waiting else 0
                ready = sum(stack.is_ready(number) for number in range(2))
                labels = 'monitored_resource="pubsub_subscription",subscription_id='
                pubsub = "pubsub_googleapis_com:subscription_"
                deployment = '{namespace="fleet",deployment="fleet-worker"}'
                lines = [
                    f'{pubsub}num_undelivered_messages{{{labels}"jobs-workers"}} {waiting}',
                    f'{pubsub}oldest_unacked_message_age{{{labels}"jobs-workers"}} {oldest:.0f}',
                    f'{pubsub}num_undelivered_messages{{{labels}"jobs-dead-review"}} {stack.dead}',
                    f"kube_deployment_status_replicas_available{deployment} {ready}",
                    f"kube_deployment_spec_replicas{deployment} 2",
                ]
                self.answer(200, "".join(f"{line}\n" for line in lines).encode(), [("Content-Type", "text/plain")])

        return Exporter

    def is_ready(self, number):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.settings[f'port-{number}']}/readyz", timeout=5).close()
            return True
        except OSError:
            return False

    def probe(self):
        """As kubelet does, since pages know whether they are ready when they are asked; and counts."""
        while not self.stopping.wait(10):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port_of_pages}/readyz", timeout=5).close()
            except OSError:
                pass
            for number in range(2):
                self.count(number)
            if self.settings["count-dead"]:
                self.count_dead()

    def count(self, number):
        """Jobs that a worker has ended since it was asked last; a new process begins at 0."""
        try:
            url = f"http://127.0.0.1:{self.settings[f'port-{number}']}/metrics"
            with urllib.request.urlopen(url, timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return
        jobs = (line for line in lines if line.startswith("fleet_jobs_total{"))
        now = sum(float(line.split()[-1]) for line in jobs if any(ended in line for ended in ENDED))
        before = self.counted.get(number, 0)
        self.ended += int(now - before if now >= before else now)
        self.counted[number] = now

    def count_dead(self):
        command = [self.options.fleet, "dead", "list", "--dead", "--dead-subscription=jobs-dead-review", "--json"]
        done = subprocess.run(command, env=self.clean() | self.environment, capture_output=True)
        self.dead = done.stdout.count(b'"job"')

    # Jobs

    def publish(self):
        number = 0
        url = f"http://{self.pubsub}/v1/projects/{self.environment['GOOGLE_CLOUD_PROJECT']}/topics/jobs:publish"
        while not self.stopping.wait(5):
            messages = []
            for place in range(JOBS):
                number += 1
                kind = self.settings["kind"] if place < self.settings["odd"] else "profile"
                job = {"user": f"user-{number % USERS + 1}", "kind": kind}
                # Without an ordering key: jobs that have one are tried where they are and not given back.
                messages.append({"data": base64.b64encode(json.dumps(job).encode()).decode()})
            body = json.dumps({"messages": messages}).encode()
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
            try:
                urllib.request.urlopen(request, timeout=10).close()
                self.published += [time.time()] * len(messages)
            except OSError as error:
                (self.folder / "publish.log").write_text(str(error))

    # Processes

    def run(self, name, arguments):
        log = open(self.folder / f"{name}.log", "ab")
        environment = self.clean() | self.environment
        process = subprocess.Popen([self.options.fleet, *arguments], stdout=log, stderr=log, env=environment)
        self.processes[name] = process

    def worker(self, number):
        port = self.settings.setdefault(f"port-{number}", free_port())
        flags = self.settings["flags"]
        self.run(f"worker-{number}", ["worker", f"--listen=127.0.0.1:{port}", "--ack-extension=10s", *flags])

    def kill(self, name):
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def terminate(self, number):
        process = self.processes.pop(f"worker-{number}")
        process.terminate()
        process.wait()

    def restart(self, flags):
        self.settings["flags"] = flags
        for number in range(2):
            self.kill(f"worker-{number}")
            self.worker(number)

    # Prometheus

    def prometheus(self):
        def job(name, ports):
            targets = [f"127.0.0.1:{port}" for port in ports]
            return {"job_name": name, "static_configs": [{"targets": targets, "labels": {"namespace": "fleet"}}]}

        rules = self.folder / "alerts.yaml"
        rules.write_text(self.rules((ROOT / "deploy" / "monitoring" / "alerts.yaml").read_text()))
        config = {
            # As kubernetes/base/pod-monitoring.yaml.
            "global": {"scrape_interval": "30s", "evaluation_interval": "30s"},
            "rule_files": [str(rules)],
            "scrape_configs": [
                job("worker", [self.settings[f"port-{number}"] for number in range(2)]),
                job("web", [self.port_of_pages]),
                job("cluster", [self.exporter.server_port]),
            ],
        }
        path = self.folder / "prometheus.yaml"
        # JSON is YAML.
        path.write_text(json.dumps(config))
        self.port = free_port()
        command = [self.options.prometheus, f"--config.file={path}", f"--storage.tsdb.path={self.folder}/data",
                   f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"]
        log = open(self.folder / "prometheus.log", "wb")
        self.processes["prometheus"] = subprocess.Popen(command, stdout=log, stderr=log)

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, query):
        try:
            found = self.get(f"/api/v1/query?query={urllib.parse.quote(query)}")["result"]
        except OSError:
            return []
        return [sample["value"] for sample in found]

    def firing(self):
        """Names and severities."""
        try:
            alerts = self.get("/api/v1/alerts")["alerts"]
        except OSError:
            return set()
        labels = [alert["labels"] for alert in alerts if alert["state"] == "firing"]
        return {(label["alertname"], label["severity"]) for label in labels}

    def stop(self):
        self.stopping.set()
        # `fleet dev` last: what the others hold is in it.
        processes = sorted(self.processes.items(), key=lambda item: item[0] == "dev")
        for _, process in processes:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
