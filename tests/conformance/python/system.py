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

from features import outcome

# What needs more than the service, by a part of its name.
LEFT_OUT = {
    "pubsub": {},
    "storage": {
        "test_kms_integration": "needs Cloud KMS",
        "test_rapid": "needs zonal buckets, which are read and written by gRPC",
    },
}


class Told:
    """Tells how each test ended."""

    def __init__(self, which):
        self.which = which
        self.ended = {}

    def pytest_collection_modifyitems(self, items):
        for item in items:
            for part, why in LEFT_OUT[self.which].items():
                if part in item.nodeid:
                    item.add_marker(pytest.mark.skip(reason=why))

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
            self.ended[name] = ("left out", str(why).removeprefix("Skipped: "))
        elif report.failed:
            self.ended[name] = outcome(call.excinfo.value)
        elif report.when == "call":
            self.ended[name] = ("pass", "")
        return report

    def tell(self):
        for name, (result, why) in sorted(self.ended.items()):
            print(json.dumps({"feature": name, "result": result, "why": why[:300]}), flush=True)


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
    told = Told(which)
    paths = ["tests/system.py" if which == "pubsub" else "tests/system"]
    chosen = ["-k", sys.argv[2]] if len(sys.argv) > 2 else []
    details = "short" if chosen else "no"
    # The packages of the folder are not those that are tested.
    sys.path[:] = [entry for entry in sys.path if entry not in ("", str(tests.parent))]
    pytest.main(
        ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", f"--tb={details}",
         "--rootdir", str(tests.parent), "-W", "ignore", *chosen, *paths],
        plugins=[told],
    )
    told.tell()
    sys.stdout.flush()
    os._exit(0)  # Streams that hang are left behind.


if __name__ == "__main__":
    main()
