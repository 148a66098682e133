#!/usr/bin/env python3
"""Writes every method of the APIs that the emulator knows, from their discovery documents.

Usage: methods.py [--check] FILE

The documents are those that Google's Python client carries. A line has the method's ID,
verb and path, the scopes of which one is enough, its query parameters, and whether it
takes an upload. With --check nothing is written, and a difference is an error.
"""

import json
import pathlib
import sys

from googleapiclient import discovery_cache

APIS = [("calendar", "v3"), ("drive", "v3"), ("gmail", "v1"), ("sheets", "v4"), ("tasks", "v1")]


def methods(resource):
    """The methods of a resource and of those below it."""
    yield from resource.get("methods", {}).values()
    for below in resource.get("resources", {}).values():
        yield from methods(below)


def line(document, method):
    parameters = method.get("parameters", {})
    query = sorted(name for name, told in parameters.items() if told["location"] == "query")
    scopes = [s.removeprefix("https://www.googleapis.com/auth/") for s in method["scopes"]]
    path = document["servicePath"] + method.get("flatPath", method["path"])
    return " ".join([
        method["id"], method["httpMethod"], "/" + path,
        ",".join(sorted(scopes)), ",".join(query) or "-",
        "upload" if "mediaUpload" in method else "-",
    ])


def main():
    lines = []
    for api, version in APIS:
        document = json.loads(discovery_cache.get_static_doc(api, version))
        lines += sorted(line(document, method) for method in methods(document))
    text = "\n".join(lines) + "\n"
    file = pathlib.Path(sys.argv[-1])
    if "--check" not in sys.argv:
        file.write_text(text)
    elif file.read_text() != text:
        sys.exit(f"{file} is not what the discovery documents say: run {sys.argv[0]} {file}")


if __name__ == "__main__":
    main()
