"""What every feature needs: registering it, running it, and saying how it ended."""

import concurrent.futures
import json
import sys
import threading
import traceback
import uuid

from google.api_core import exceptions
import requests

# A feature that has not ended by then has failed.
SECONDS = 40

FEATURES = []


def feature(name):
    """Registers a function as a feature under the name that the table shows."""

    def register(function):
        FEATURES.append((name, function))
        return function

    return register


def unique(prefix="t"):
    """A name that no other feature uses."""
    return f"{prefix}-{uuid.uuid4().hex[:16]}"


def equal(found, wanted):
    if found != wanted:
        raise AssertionError(f"{found!r} where {wanted!r} was wanted")


def refuses(kind, call):
    """Checks that a call is refused as the service refuses it, and not otherwise."""
    try:
        call()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was wanted, and nothing was refused")


def outcome(error):
    """An error as a result: a clear 501 that says what is missing is a refusal."""
    text = " ".join(str(error).split())
    seen = error
    while seen is not None:
        code = getattr(seen, "code", None)
        response = getattr(seen, "response", None)
        status = getattr(response, "status_code", getattr(seen, "status_code", None))
        name = getattr(code() if callable(code) else code, "name", None)
        unimplemented = (
            isinstance(seen, (exceptions.MethodNotImplemented,))
            or code == 501
            or status == 501
            or name == "UNIMPLEMENTED"
        )
        if unimplemented and len(text) > 10:
            return "refused", text
        seen = seen.__cause__ or seen.__context__
    return "fail", f"{type(error).__name__}: {text}"


def run(context, only):
    """Runs the features, a few at a time, and prints one JSON line for each."""
    lock = threading.Lock()

    def one(name, function):
        try:
            function(context())
            result, why = "pass", ""
        except BaseException as error:  # noqa: BLE001 - a feature may end in any way
            result, why = outcome(error)
            if only:
                traceback.print_exc()
        with lock:
            print(json.dumps({"feature": name, "result": result, "why": why[:300]}), flush=True)

    chosen = [(n, f) for n, f in FEATURES if not only or only in n]
    pool = concurrent.futures.ThreadPoolExecutor(6)
    started = [(name, pool.submit(watched, one, name, function)) for name, function in chosen]
    for _, future in started:
        future.result()
    sys.stdout.flush()


def watched(one, name, function):
    """Runs a feature in a thread of its own, which is left behind when it hangs."""
    said = threading.Event()

    def work():
        one(name, function)
        said.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    if not said.wait(SECONDS):
        why = f"has not ended after {SECONDS} s"
        print(json.dumps({"feature": name, "result": "fail", "why": why}), flush=True)
