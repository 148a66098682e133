"""Says who it acts as by Google's default credentials."""

import os

import google.auth
from google.auth.transport.requests import AuthorizedSession

credentials, _ = google.auth.default()
answer = AuthorizedSession(credentials).get(os.environ["USERINFO"])
answer.raise_for_status()
print(answer.json()["sub"])
