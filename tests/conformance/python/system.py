"""The system tests that Google's client for Python carries, against the emulators.

Usage: system.py pubsub|storage [EXPRESSION]

They are in the source distribution, which is looked for in the folder that SDISTS names.
Each test is told as a feature is: one JSON line.
"""

import json
import os
import pathlib
import sys

import pytest
from google.oauth2 import service_account

from features import outcome

# Files and tests that need more than the service.
LEFT_OUT = {
    "pubsub": {},
    "storage": {
        "test_client.py::test_anonymous_client_access_to_public_bucket": "needs Google's own bucket",
        "test__signing.py": "needs a service account's key and IAM's credentials service",
        "test_kms_integration.py": "needs Cloud KMS",
        "test_rapid.py": "needs zonal buckets, which are read and written by gRPC",
    },
}


class Told:
    """Tells how each test ended; the last that is told of it counts."""

    def __init__(self):
        self.out = os.dup(1)

    def pytest_collection_finish(self):
        helpers = sys.modules.get("tests.system._helpers")
        if helpers is not None:
            # The service may take some seconds to heed a bucket's settings.
            helpers.await_config_changes_propagate = lambda sec=0: None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        name = item.nodeid.split("tests/", 1)[-1].replace("system/", "")
        if report.skipped:
            why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            self.tell(name, "left out", str(why).removeprefix("Skipped: "))
        elif report.failed:
            self.tell(name, *outcome(call.excinfo.value))
        elif report.when == "call":
            self.tell(name, "pass", "")
        return report

    def tell(self, name, result, why):
        line = json.dumps({"feature": name, "result": result, "why": why[:300]})
        # Not into what pytest keeps of a test's output.
        os.write(self.out, f"\n{line}\n".encode())


def over_rest(cls):
    """Lets a client over REST find the emulator: the variable leads gRPC alone there."""
    from google.auth.credentials import AnonymousCredentials

    init = cls.__init__

    def begin(self, *args, **settings):
        if settings.get("transport") != "rest":
            return init(self, *args, **settings)
        host = os.environ.pop("PUBSUB_EMULATOR_HOST")
        settings.setdefault("client_options", {"api_endpoint": f"http://{host}"})
        settings.setdefault("credentials", AnonymousCredentials())
        try:
            return init(self, *args, **settings)
        finally:
            os.environ["PUBSUB_EMULATOR_HOST"] = host

    cls.__init__ = begin


class Account(service_account.Credentials):
    """Asks nobody for a token. Processes of the transfer manager get it by pickle."""

    def refresh(self, _):
        self.token = "nobody-looks-at-it"


def account():
    """A service account that nobody knows, with a key of its own and a token for nothing."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )

    return Account.from_service_account_info({
        "client_email": "tests@conformance.iam.gserviceaccount.com",
        "token_uri": "http://127.0.0.1:9/token",
        "private_key": key.decode(),
    })


def with_account(cls):
    """Gives a client the account, as the tests want one."""
    init, ours = cls.__init__, account()

    def begin(self, project=None, credentials=None, *args, **settings):
        return init(self, project, credentials or ours, *args, **settings)

    cls.__init__ = begin


def main():
    which = sys.argv[1]
    found = list(pathlib.Path(os.environ.get("SDISTS", ".")).glob(f"google_cloud_{which}-*/tests"))
    if not found:
        print(f"LEFT OUT {which}'s system tests: SDISTS names no folder that has them")
        return
    tests = found[0]
    # Default credentials are looked for, though nobody asks for them.
    users = json.loads(os.environ["GOOGLE_EMULATOR_USERS"])
    file = tests.parent / "default-credentials.json"
    file.write_text(json.dumps(users[0]))
    os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = str(file)
    os.chdir(tests.parent)
    if which == "pubsub":
        from google.cloud import pubsub_v1

        over_rest(pubsub_v1.PublisherClient)
        over_rest(pubsub_v1.SubscriberClient)
    else:
        # Who pays is told, and not looked at.
        os.environ["GOOGLE_CLOUD_TESTS_USER_PROJECT"] = "conformance-user"
        from google.cloud import storage

        with_account(storage.Client)
    told = Told()
    paths = ["tests/system.py" if which == "pubsub" else "tests/system"]
    for file, why in LEFT_OUT[which].items():
        told.tell(file, "left out", why)
        option = "--deselect" if "::" in file else "--ignore"
        paths.append(f"{option}=tests/system/{file}")
    chosen = ["-k", sys.argv[2]] if len(sys.argv) > 2 else []
    details = "short" if chosen else "no"
    # The packages of the folder are not those that are tested.
    sys.path[:] = [entry for entry in sys.path if entry not in ("", str(tests.parent))]
    pytest.main(
        ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", f"--tb={details}",
         "--rootdir", str(tests.parent), *chosen, *paths],
        plugins=[told],
    )
    os._exit(0)  # Streams that hang are left behind.


if __name__ == "__main__":
    main()
