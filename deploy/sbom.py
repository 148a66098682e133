#!/usr/bin/env python3
"""Writes what is linked into the `fleet` of the image as a CycloneDX 1.6 document.

From the repository's root:
  cargo metadata --format-version 1 --locked --no-default-features \
      --manifest-path worker/Cargo.toml --filter-platform x86_64-unknown-linux-gnu \
    | python3 deploy/sbom.py > fleet.cdx.json

The same Cargo.lock gives the same document: it has no time and no serial number. Crates that only
run while others are built or tested (build and development dependencies) are not in it.
"""

import json
import sys
import tomllib
from pathlib import Path

ROOT = "worker"
REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"


def linked(metadata):
    """The packages that the root package needs to run, by ID, with what each of them needs."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    found, waiting = {}, [root(metadata)["id"]]
    while waiting:
        package = waiting.pop()
        if package not in found:
            needs = {
                dep["pkg"]
                for dep in nodes[package]["deps"]
                if any(kind["kind"] is None for kind in dep["dep_kinds"])
            }
            found[package] = needs
            waiting.extend(needs)
    return found


def root(metadata):
    members = set(metadata["workspace_members"])
    return next(p for p in metadata["packages"] if p["id"] in members and p["name"] == ROOT)


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, checksums):
    own = package["source"] is None
    made = {
        "type": "application" if package["name"] == ROOT and own else "library",
        "bom-ref": purl(package),
        "name": "fleet" if package["name"] == ROOT and own else package["name"],
        "version": package["version"],
    }
    if not own:
        made["purl"] = purl(package)
    if package["license"]:
        # Older manifests separate a choice by a slash.
        expression = " OR ".join(part.strip() for part in package["license"].split("/"))
        made["licenses"] = [{"expression": expression}]
    checksum = checksums.get((package["name"], package["version"], package["source"]))
    if checksum:
        made["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package["repository"]:
        made["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return made


def document(metadata, lock):
    checksums = {
        (p["name"], p["version"], p.get("source")): p["checksum"]
        for p in lock["package"]
        if "checksum" in p
    }
    packages = {package["id"]: package for package in metadata["packages"]}
    needs = linked(metadata)
    for package in needs:
        source = packages[package]["source"]
        if source is not None and source != REGISTRY:
            sys.exit(f"{packages[package]['name']} comes from {source}, which has no purl here")
    top = root(metadata)
    parts = sorted(
        (component(packages[package], checksums) for package in needs if package != top["id"]),
        key=lambda part: part["bom-ref"],
    )
    edges = [
        {
            "ref": purl(packages[package]),
            "dependsOn": sorted(purl(packages[need]) for need in wanted),
        }
        for package, wanted in needs.items()
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": component(top, checksums)},
        "components": parts,
        "dependencies": sorted(edges, key=lambda edge: edge["ref"]),
    }


def main():
    metadata = json.load(sys.stdin)
    lock = Path(metadata["workspace_root"], "Cargo.lock").read_text(encoding="utf-8")
    json.dump(document(metadata, tomllib.loads(lock)), sys.stdout, indent=1, sort_keys=True)
    print()


if __name__ == "__main__":
    main()
