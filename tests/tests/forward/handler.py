"""A handler of the standard library alone, as a program that knows nothing of the fleet."""

import http.server
import json
import os
import sys
import urllib.parse
import urllib.request


def access_token(credentials):
    form = urllib.parse.urlencode(
        {
            "grant_type": "refresh_token",
            "client_id": credentials["client_id"],
            "client_secret": credentials["client_secret"],
            "refresh_token": credentials["refresh_token"],
        }
    )
    with urllib.request.urlopen(credentials["token_uri"], form.encode()) as answer:
        return json.load(answer)["access_token"]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        job = json.loads(self.rfile.read(int(self.headers["content-length"])))
        says = job["params"]["says"]
        if says == "crash" and job["attempt"] == 1:
            os._exit(1)
        if says == "raise" and job["attempt"] < 3:
            return self.answer(500, {"error": "raised"})
        request = urllib.request.Request(
            sys.argv[2] + "/tasks/v1/lists/@default/tasks",
            json.dumps({"title": job["id"]}).encode(),
            {
                "authorization": "Bearer " + access_token(job["credentials"]),
                "content-type": "application/json",
                "x-effect-id": job["id"],
            },
        )
        with urllib.request.urlopen(request) as answer:
            self.answer(200, {"task": json.load(answer)["title"]})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("listening", flush=True)
server.serve_forever()
