"""Whether deploy/sbom.py lists what is linked, whole and in the form of CycloneDX 1.6.

Takes the output of `cargo metadata` (see deploy/sbom.py) on stdin.
"""

import json
import sys
import tomllib
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

sys.path.insert(0, str(Path(__file__).parents[1]))
import sbom  # noqa: E402

metadata = json.load(sys.stdin)
lock = tomllib.loads(Path(metadata["workspace_root"], "Cargo.lock").read_text(encoding="utf-8"))
made = sbom.document(metadata, lock)

error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(made))
assert error is None, error
assert made == sbom.document(metadata, lock), "the same input gives the same document"

parts = {part["name"]: part for part in made["components"]}
for linked in ("shared", "google-cloud-storage", "aws-lc-sys", "mimalloc"):
    assert linked in parts, linked
for other in ("emulators", "unguarded", "proptest", "criterion", "cc"):
    assert other not in parts, f"{other} is not linked into the image's binary"
for part in made["components"]:
    assert part["licenses"], part
    assert part["name"] == "shared" or (part["purl"] and part["hashes"]), part
known = {part["bom-ref"] for part in made["components"]} | {
    made["metadata"]["component"]["bom-ref"]
}
for edge in made["dependencies"]:
    assert {edge["ref"], *edge["dependsOn"]} <= known, edge
print(f"{len(made['components'])} crates")
