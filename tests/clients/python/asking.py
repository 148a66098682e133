"""Asks a broker for the tokens of 1,000 users, from 50 threads, by one key and then by another.

    asking.py CREDENTIALS

The other key comes as a line on stdin.
"""

import json
import os
import sys
import threading

import google.auth.transport.requests
import requests
from google.auth.exceptions import GoogleAuthError
from google.auth.external_account_authorized_user import Credentials

THREADS, ASKS, USERS = 50, 200, 1000

with open(sys.argv[1], encoding="utf-8") as file:
    info = json.load(file)
first = key = info["client_secret"]
lock = threading.Lock()
tokens = {f"user-{number}": set() for number in range(USERS)}
asked = by_the_new_key = 0
failures = []


def ask(thread):
    global asked, by_the_new_key
    with requests.Session() as session:
        request = google.auth.transport.requests.Request(session)
        for number in range(ASKS):
            # Several threads begin with one user, and all end with all of them.
            user = f"user-{(thread // 5 * 100 + number) % USERS}"
            used = key
            credentials = Credentials.from_info(
                {**info, "client_secret": used, "refresh_token": user}
            )
            try:
                credentials.refresh(request)
            except GoogleAuthError as error:
                failures.append(str(error))
            with lock:
                asked += 1
                by_the_new_key += used != first
                tokens[user].add(credentials.token)
                if asked % 500 == 0:
                    # Whoever waits sees that it goes on.
                    print("a third" if asked == 3000 else "asking", flush=True)


threads = [threading.Thread(target=ask, args=(number,)) for number in range(THREADS)]
for thread in threads:
    thread.start()
key = sys.stdin.readline().strip()
for thread in threads:
    thread.join()

wrong = 0
for user in list(tokens)[::20]:
    bearer = {"authorization": f"Bearer {next(iter(tokens[user]))}"}
    answer = requests.get(os.environ["FLEET_API_ROOT"] + "/v1/userinfo", headers=bearer, timeout=60)
    wrong += answer.json()["sub"] != user
print(*failures[:5], sep="\n")
counts = {
    "asked": asked,
    "failed": len(failures),
    "by_the_new_key": by_the_new_key,
    "tokens": len(set.union(*tokens.values())),
    "wrong_users": wrong,
}
print(json.dumps(counts))
