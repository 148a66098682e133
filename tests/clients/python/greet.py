import os

import functions_framework
from google.auth.external_account_authorized_user import Credentials
from googleapiclient.discovery import build
from googleapiclient.errors import HttpError

# The local stack's stand-in for Google's APIs, where there is one.
OPTIONS = {"api_endpoint": os.environ["FLEET_API_ROOT"]} if "FLEET_API_ROOT" in os.environ else None


@functions_framework.cloud_event
def greet(event):
    job = event.data
    credentials = Credentials.from_info(job["credentials"])
    with build("tasks", "v1", credentials=credentials, client_options=OPTIONS) as api:
        api.tasks().insert(tasklist="@default", body={"title": job["params"]["title"]}).execute()


@functions_framework.errorhandler(HttpError)
def refused(error):
    told = ("content-type", "retry-after", "www-authenticate")
    headers = {name: error.resp[name] for name in told if name in error.resp}
    return error.content, error.status_code, headers
