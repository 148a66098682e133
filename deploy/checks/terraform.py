"""Validates and tests deploy/terraform offline: with terraform itself, and with the schema of Google's
provider in place of the provider.

    python3 terraform.py             # terraform validate, terraform test, what comes before what, and what must be found wrong
    terraform -chdir=deploy/terraform init -backend=false
    terraform -chdir=deploy/terraform providers schema -json | python3 deploy/checks/terraform.py --refresh

The last two, online, write terraform-schema.json anew: what the provider's schema says of the
resources in use, in the form of `terraform providers schema`. A provider of our own serves
it to terraform (TF_REATTACH_PROVIDERS), which then checks every name, type and reference as it
would with Google's. It knows of no values that only Google's code checks.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCHEMA = HERE / "terraform-schema.json"
TESTS = HERE / "terraform"
SOURCE = HERE.parent / "terraform"
ADDRESS = "registry.terraform.io/hashicorp/google"
NESTING = {"single": 1, "list": 2, "set": 3, "map": 4, "group": 5}

# What is broken, by which replacement in which file, and what terraform must say.
BROKEN = [
    ("an attribute that no resource has", "pubsub.tf", "ack_deadline_seconds ", "ack_deadline ", "Unsupported argument"),
    ("a block that no resource has", "storage.tf", "soft_delete_policy {", "soft_deletion {", "Unsupported block type"),
    ("a wrong type", "cluster.tf", "min_node_count = 1", 'min_node_count = "some"', "a number is required"),
    ("a reference to nothing", "outputs.tf", "google_compute_global_address.web.address", "google_compute_address.web.address", "not been declared"),
    ("an attribute of another resource", "outputs.tf", "google_service_account.build.name", "google_service_account.build.address", "Unsupported attribute"),
    ("a required attribute", "secrets.tf", '  secret_id  = "${var.name}-${each.key}"\n', "", "Missing required argument"),
]


# What README.md enables before Terraform: Cloud Storage, Pub/Sub, and the project's own policy.
ENABLED_BY_HAND = re.compile(r"google_(storage|pubsub)_|google_project_iam_(member|audit_config)$")
# The customer's own, which is there.
ELSEWHERE = {"google_kms_crypto_key_iam_member.bucket"}
# What names an identity of the cluster's pool.
POOLED = re.compile(r"local\.(worker|web|metrics_readers|identities)\b")


# A message of Protocol Buffers is fields: a tag, and a number or a length with bytes.

def varint(number):
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(tag, value):
    if isinstance(value, int):
        return varint(tag << 3) + varint(value) if value else b""
    data = value.encode() if isinstance(value, str) else value
    return varint(tag << 3 | 2) + varint(len(data)) + data


def attribute(name, entry):
    flags = [(4, "required"), (5, "optional"), (6, "computed"), (7, "sensitive")]
    parts = [field(tag, int(entry.get(flag, False))) for tag, flag in flags]
    return field(1, name) + field(2, json.dumps(entry["type"])) + b"".join(parts)


def block(entry):
    out = b"".join(field(2, attribute(*item)) for item in sorted(entry.get("attributes", {}).items()))
    for name, nested in sorted(entry.get("block_types", {}).items()):
        numbers = [(3, NESTING[nested["nesting_mode"]]), (4, nested.get("min_items", 0)), (5, nested.get("max_items", 0))]
        parts = b"".join(field(tag, number) for tag, number in numbers)
        out += field(3, field(1, name) + field(2, block(nested["block"])) + parts)
    return out


def schema(entry):
    return field(1, entry["version"]) + field(2, block(entry["block"]))


def every_schema():
    provider = json.loads(SCHEMA.read_text(encoding="utf-8"))["provider_schemas"][ADDRESS]
    out = field(1, schema(provider["provider"]))
    for tag, kind in [(2, "resource_schemas"), (3, "data_source_schemas")]:
        for name, entry in provider[kind].items():
            out += field(tag, field(1, name) + field(2, schema(entry)))
    return out


def serve():
    """A provider of protocol 5 that knows schemas only; its server and port."""
    import grpc

    # PrepareProviderConfig: field 1 of request and answer is the configuration.
    answers = {"GetSchema": lambda _: answer, "PrepareProviderConfig": lambda request: request}
    answer = every_schema()

    class Provider(grpc.GenericRpcHandler):
        def service(self, call):
            service, _, method = call.method.lstrip("/").partition("/")
            if service != "tfplugin5.Provider":
                return None
            # Everything else is a question whose answer is "fine".
            act = answers.get(method, lambda _: b"")
            return grpc.unary_unary_rpc_method_handler(lambda request, _: act(request))

    server = grpc.server(ThreadPoolExecutor(4), handlers=[Provider()], maximum_concurrent_rpcs=64)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def environment(port):
    reattach = {
        "Protocol": "grpc", "ProtocolVersion": 5, "Pid": os.getpid(), "Test": True,
        "Addr": {"Network": "tcp", "String": f"127.0.0.1:{port}"},
    }
    # Nobody's own settings, and no network.
    ours = {"TF_CLI_CONFIG_FILE": os.devnull, "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"}
    return {**os.environ, **ours, "TF_REATTACH_PROVIDERS": json.dumps({ADDRESS: reattach})}


def terraform(folder, env, *words):
    done = subprocess.run(["terraform", *words], cwd=folder, env=env, capture_output=True, text=True)
    said = re.sub(r"[╷│╵]", " ", done.stdout + done.stderr)
    return done.returncode, said


def copy(folder):
    for path in sorted(SOURCE.glob("*.tf")):
        shutil.copy(path, folder)
    shutil.copytree(TESTS, Path(folder, "tests"))


def order(folder, env):
    """What may be made before that without which Google refuses it."""
    path = Path(folder, "versions.tf")
    text = path.read_text(encoding="utf-8")
    # `terraform graph` wants the state that is configured.
    path.write_text(text.replace('backend "gcs" {}', ""), encoding="utf-8")
    code, said = terraform(folder, env, "init", "-reconfigure", "-input=false", "-no-color")
    if code == 0:
        code, said = terraform(folder, env, "graph")
    path.write_text(text, encoding="utf-8")
    if code:
        sys.exit(f"terraform graph:\n{said}")
    edges = {}
    for start, end in re.findall(r'"([^"]+)" -> "([^"]+)"', said):
        edges.setdefault(start, set()).add(end)

    def reaches(start, end):
        seen, left = set(), [start]
        while left:
            at = left.pop()
            if at not in seen:
                seen.add(at)
                left.extend(edges.get(at, []))
        return end in seen

    source = "".join(path.read_text(encoding="utf-8") for path in sorted(SOURCE.glob("*.tf")))
    pooled = 0
    for kind, name, body in re.findall(r'^resource "(\w+)" "(\w+)" \{\n(.*?)^\}', source, re.MULTILINE | re.DOTALL):
        resource = f"{kind}.{name}"
        by_hand = ENABLED_BY_HAND.match(kind) or resource in ELSEWHERE
        if not by_hand and not reaches(resource, "google_project_service.this"):
            yield f"{resource} may be made before its API is enabled"
        if POOLED.search(body):
            pooled += 1
            if not reaches(resource, "google_container_cluster.fleet"):
                yield f"{resource} may be made before the cluster's pool of identities"
    if pooled < 10:
        yield f"only {pooled} grants to the cluster's identities were found"


def check():
    server, port = serve()
    env = environment(port)
    faults = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            copy(folder)
            for words in [["init", "-backend=false", "-input=false"], ["validate", "-no-color"], ["test", "-no-color"]]:
                code, said = terraform(folder, env, *words)
                if code:
                    sys.exit(f"terraform {' '.join(words)}:\n{said}")
            print(said.strip().splitlines()[-1])
            faults.extend(order(folder, env))
            for what, name, before, after, told in BROKEN:
                path = Path(folder, name)
                text = path.read_text(encoding="utf-8")
                assert before in text, (what, before)
                path.write_text(text.replace(before, after), encoding="utf-8")
                code, said = terraform(folder, env, "validate", "-no-color")
                if code == 0 or told not in " ".join(said.split()):
                    faults.append(f"{what}: expected {told!r}, found {said}")
                path.write_text(text, encoding="utf-8")
    finally:
        server.stop(None)
    print("\n".join(faults) if faults else f"{len(BROKEN)} ways to break it, each found")
    sys.exit(bool(faults))


def refresh():
    """Keeps of a whole schema what deploy/terraform uses."""
    whole = json.load(sys.stdin)["provider_schemas"][ADDRESS]
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(SOURCE.glob("*.tf")))
    kept = {"provider": whole["provider"]}
    for kind, word in [("resource_schemas", "resource"), ("data_source_schemas", "data")]:
        names = sorted(set(re.findall(rf'^{word} "(\w+)"', text, re.MULTILINE)))
        kept[kind] = {name: plain(whole[kind][name]) for name in names}
    write(kept)


def plain(entry):
    """Without descriptions, of which a schema has ten times as much."""
    if not isinstance(entry, dict):
        return entry
    return {key: plain(value) for key, value in entry.items() if not key.startswith("description") or isinstance(value, dict)}


def write(kept):
    """A resource on each line."""
    lines = [f' "provider": {json.dumps(kept["provider"])}']
    for kind in ["resource_schemas", "data_source_schemas"]:
        entries = ",\n".join(f'  {json.dumps(name)}: {json.dumps(entry)}' for name, entry in kept[kind].items())
        lines.append(f' "{kind}": {{\n{entries}\n }}')
    body = ",\n".join(lines)
    SCHEMA.write_text(f'{{"format_version": "1.0", "provider_schemas": {{"{ADDRESS}": {{\n{body}\n}}}}}}\n', encoding="utf-8")


def main():
    if sys.argv[1:] == ["--refresh"]:
        refresh()
    elif sys.argv[1:]:
        sys.exit("usage: terraform.py [--refresh]")
    else:
        check()


if __name__ == "__main__":
    main()
