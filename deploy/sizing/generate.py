"""Writes deploy/SIZING.md from inputs.json, so that its figures follow from their inputs.

    python3 deploy/sizing/generate.py           # writes the page
    python3 deploy/sizing/generate.py --check   # says whether it is current

An input whose value is null has not been measured: the page says how to, and
gives no figure that would need it.
"""

import json
import math
import sys
from pathlib import Path

import autoscaler

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "SIZING.md"
HOURS_PER_MONTH = 730
DAYS_PER_MONTH = HOURS_PER_MONTH / 24
TIB = 2**40
MIB = 2**20
USERS = [10**n for n in range(3, 8)]
REPLICAS = [1, 3, 10, 30, 100, 300, 1000]
SECONDS_PER_JOB = [0.05, 0.1, 0.3, 1, 10]


def number(value):
    """1234567 -> 1,234,567; small ones with two digits."""
    if value == 0:
        return "0"
    if value < 10:
        return f"{value:.2g}" if value < 1 else f"{value:.2f}".rstrip("0").rstrip(".")
    return f"{value:,.0f}"


def dollars(value):
    return f"${value:,.2f}" if value < 100 else f"${value:,.0f}"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


class Model:
    def __init__(self, inputs):
        self.inputs = inputs
        self.v = {name: entry["value"] for name, entry in inputs.items()}
        v = self.v
        # The earliest that a token is renewed, hence the most refreshes.
        self.period = v["token_lifetime_s"] - v["refresh_ahead_s"]
        self.outstanding = v["concurrency"] * v["outstanding_per_slot"]
        self.user_bytes = v["bytes_per_user"] + v["token_bytes_per_user"]

    def storage(self, refreshes, reads=0):
        a = refreshes * self.v["refresh_writes"]
        b = refreshes * self.v["refresh_reads"] + reads
        return a, b, (a * self.v["class_a_usd_per_million"] + b * self.v["class_b_usd_per_million"]) / 1e6

    def pubsub(self, jobs):
        size = self.v["job_message_bytes"] + self.v["outcome_message_bytes"]
        # Published once and delivered once.
        return jobs * 2 * size / TIB * self.v["pubsub_usd_per_tib"]

    def logging(self, entries, size):
        return entries * size / 2**30 * self.v["logging_usd_per_gib"]

    def logs(self):
        v = self.v
        cost = self.logging(1e6, v["log_bytes_per_delivery"] + v["log_entry_bytes"])
        return (
            f"Their log lines are {dollars(cost)} of Cloud Logging ({number(v['log_bytes_per_delivery'])} B each, and {number(v['log_entry_bytes'])} B that\n"
            "  Logging adds); `FLEET_LOG=warn` leaves them out."
        )

    def audited(self, requests):
        return self.logging(requests, self.v["audit_entry_bytes"])

    def ending_sweeps(self):
        """Of one replica, a month."""
        return HOURS_PER_MONTH * 3600 / self.v["ending_sweep_s"] * self.v["class_a_usd_per_million"] / 1e6

    def sweeps(self, users):
        """Of a fleet, a month: listings are class A."""
        pages = self.v["sweep_lists"] - 1 + max(1, users / self.v["list_page"])
        return HOURS_PER_MONTH * 3600 / self.v["sweep_s"] * pages * self.v["class_a_usd_per_million"] / 1e6

    def samples(self):
        """Of one worker, a month."""
        v = self.v
        return v["series_per_worker"] * HOURS_PER_MONTH * 3600 / v["scrape_s"] / 1e6 * v["metrics_usd_per_million_samples"]

    def pages(self):
        v = self.v
        gib = v["web_memory_bytes"] / 2**30
        return v["web_replicas"] * HOURS_PER_MONTH * (v["web_vcpu"] * v["vcpu_usd_per_hour"] + gib * v["gib_usd_per_hour"])

    def fixed_rows(self):
        v = self.v
        hours = [("cluster", "cluster_usd_per_hour"), ("load balancer of the consent pages", "load_balancer_usd_per_hour"), ("NAT, three nodes", "nat_usd_per_hour")]
        rows = [(name, HOURS_PER_MONTH * v[key]) for name, key in hours]
        rows.append(("secrets, and a key of Cloud KMS", v["key_usd_per_month"]))
        rows.append((f"{v['web_replicas']} pages", self.pages()))
        rows.append(("two idle workers", 2 * self.replica()))
        rows.append(("their metrics, and those of the pages", 3 * self.samples()))
        rows.append(("sweeps, with up to 1,000 users", self.sweeps(0) + 2 * self.ending_sweeps()))
        return rows

    def fixed(self):
        rows = self.fixed_rows()
        total = sum(cost for _, cost in rows)
        return table(["whether there are jobs or not", "a month"], [[name, dollars(cost)] for name, cost in rows] + [["**together**", f"**{dollars(total)}**"]])

    def users_cost(self):
        rows = []
        v = self.v
        for users in USERS:
            a, b, _ = self.storage(users * HOURS_PER_MONTH * 3600 / self.period)
            multi = (a * v["class_a_multi_usd_per_million"] + b * v["class_b_usd_per_million"]) / 1e6
            stored = users * v["stored_bytes_per_user"] / 2**30 * v["storage_usd_per_gib_month"]
            rows.append([number(users), dollars(multi), dollars(self.audited(a + b)), dollars(self.sweeps(users)), dollars(stored)])
        return table(["users, each with jobs in every hour", "Cloud Storage in a multi-region instead", "data access audit logs", "sweeps", "bytes stored"], rows)

    def simulated(self):
        rows = []
        for target in [4 * self.v["concurrency"], self.v["concurrency"], round(0.75 * self.v["concurrency"])]:
            for jobs in [300, 600]:
                least, most, changes, waits = autoscaler.summary(autoscaler.run(autoscaler.Fleet(target, self.v["concurrency"]), jobs))
                rows.append([str(target), str(jobs), f"{least} to {most}" if least != most else str(least), str(changes), number(waits)])
        return table(["jobs per replica that it aims at", "jobs/s of 1 s", "replicas", "changes in 3 h", "most that wait"], rows)

    def dedupe(self):
        """Of a million jobs."""
        v = self.v
        return v["dedupe_writes"] * v["class_a_usd_per_million"] + v["dedupe_reads"] * v["class_b_usd_per_million"]

    def replica(self):
        gib = self.v["replica_memory_bytes"] / 2**30
        return HOURS_PER_MONTH * (self.v["replica_vcpu"] * self.v["vcpu_usd_per_hour"] + gib * self.v["gib_usd_per_hour"])

    def slots(self, seconds):
        """Jobs a second of one replica, by its slots and by flow control."""
        return min(self.v["concurrency"] / seconds, self.outstanding / (seconds + self.v["ack_batch_s"]))

    def always(self):
        rows = []
        for users in USERS:
            a, b, cost = self.storage(users * HOURS_PER_MONTH * 3600 / self.period)
            per_second = users / self.period
            rows.append([number(users), number(per_second), number(2 * per_second), number(a / 1e6), number(b / 1e6), dollars(cost)])
        return table(["users, each with jobs in every hour", "refreshes/s", "writes/s", "class A, millions a month", "class B, millions a month", "Cloud Storage a month"], rows)

    def daily(self):
        rows = []
        for users in USERS:
            a, b, cost = self.storage(users * DAYS_PER_MONTH, users * DAYS_PER_MONTH * self.v["cold_reads"])
            rows.append([number(users), number(a / 1e6), number(b / 1e6), dollars(cost), dollars(self.pubsub(users * DAYS_PER_MONTH))])
        return table(["users, each with one job a day", "class A, millions a month", "class B, millions a month", "Cloud Storage a month", "Pub/Sub a month"], rows)

    def spread(self):
        rows = []
        refreshes = HOURS_PER_MONTH * 3600 / self.period
        for replicas in REPLICAS:
            reads = (replicas - 1) * self.v["look_reads"] * refreshes
            extra = reads * self.v["class_b_usd_per_million"] / 1e6
            rows.append([
                number(replicas),
                number(replicas * self.v["cached_users"]),
                number(replicas * self.slots(0.3)),
                dollars(replicas * self.replica()),
                dollars(1000 * extra),
            ])
        return table(["replicas", "users that fit in memory, no user on two", "jobs/s at 0.3 s each, at most", "Autopilot a month", "more reads a month per 1,000 users that *every* replica uses in every hour"], rows)

    def durations(self):
        rows = []
        for seconds in SECONDS_PER_JOB:
            rows.append([f"{seconds:g} s", number(self.slots(seconds)), number(1 / seconds), number(math.ceil(1000 / self.slots(seconds)))])
        return table(["a job takes", "one replica, jobs/s", "one user, jobs/s", "replicas for 1,000 jobs/s"], rows)

    def memory(self):
        rows = []
        for users in [u for u in USERS if u < self.v["cached_users"]] + [self.v["cached_users"]]:
            rows.append([number(users), f"{number(users * self.user_bytes / MIB)} MiB"])
        return table(["users in memory of one replica", "memory beyond the idle process"], rows)

    def measured(self):
        rows = []
        for name, entry in self.inputs.items():
            value = "**not measured**" if entry["value"] is None else f"{entry['value']:,}"
            source = f"measure with: {entry['source']}" if entry["value"] is None else entry["source"]
            rows.append(f"| `{name}` | {value} | {source} |")
        return "\n".join(["| input | value | from |", "|---|--:|---|", *rows])

    def cpu(self):
        per_core = self.v["jobs_per_second_per_core"]
        rows = []
        for users in USERS:
            jobs = users / 3600
            replicas = max(jobs / (per_core * self.v["replica_vcpu"]), jobs / self.slots(0.3))
            rows.append([number(users), number(jobs), number(math.ceil(replicas) + 1)])
        return (
            f"One core does {number(per_core)} jobs/s of one HTTPS call. A replica's half of one leaves two fifths free with {self.v['concurrency']} slots\n"
            "and calls of 20 ms, for refreshes and for the handshakes after a rollout; with calls of 100 ms it carries 512 slots, with calls of\n"
            "300 ms more (`--concurrency`; [measured in such a pod](../tests/bench/README.md)). Bodies and pages are bounded by `--body-memory`,\n"
            "whatever the slots: 64 uploads of 5 MB at once took 123 MB in all.\n\nWith one job per user and hour, 0.3 s each, and one replica to spare:\n\n"
            + table(["users", "jobs/s", "replicas"], rows)
        )

    def idle(self):
        idle = self.v["idle_memory_bytes"]
        if idle is None:
            return "The idle process has not been measured."
        return f"The idle process has {number(idle / MIB)} MiB."

    def page(self):
        v = self.v
        first_ramp = v["bucket_writes_per_second"] * self.period / v["refresh_writes"]
        cold = v["bucket_reads_per_second"] / v["cold_reads"]
        key = v["ordering_key_bytes_per_second"] / v["job_message_bytes"]
        _, _, always_cost = self.storage(1000 * HOURS_PER_MONTH * 3600 / self.period)
        return f"""# Sizing

How many replicas, and what will it cost? Made by `deploy/sizing/generate.py` from the inputs at the end: change those,
not this page. Operations per event are counted by tests and exact; prices are list prices; what has not been measured
is said to be so.

## In short

- **Replicas follow jobs, not users.** A replica runs {v['concurrency']} jobs at a time: jobs/s × seconds per job ÷ {v['concurrency']}, and one to spare.
- **Storage follows users with jobs in an hour**: {dollars(always_cost)} a month for 1,000 of them, whatever the number of replicas,
  if jobs carry ordering keys (Pub/Sub then keeps a user on one replica). A user without jobs costs nothing but bytes.
- **Memory follows users per replica**: {number(self.user_bytes)} B each, {number(v['cached_users'])} at most; beyond these the least recently used are read again
  ({v['cold_reads']} read).
- A million jobs are {dollars(self.pubsub(1e6))} of Pub/Sub (job and outcome, {number(v['job_message_bytes'])} B and {number(v['outcome_message_bytes'])} B).
  {self.logs()}
  `--dedupe bucket`, which is off by default, would add {dollars(self.dedupe())} of Cloud Storage, {v['dedupe_writes']} write and {v['dedupe_reads']} read per job.

## Cloud Storage

A refresh is {v['refresh_writes']} writes (class A) and {v['refresh_reads']} read (class B), at the replica that does it. A token lives {number(v['token_lifetime_s'])} s and is renewed at most
{number(v['refresh_ahead_s'])} s ahead, and only for a job: so at most one refresh per user in {number(self.period)} s, {number(HOURS_PER_MONTH * 3600 / self.period)} in a month.

{self.always()}

{self.daily()}

Beside that:

{self.users_cost()}

Writes cost twice as much in a multi-region ({dollars(v['class_a_multi_usd_per_million'])} in place of {dollars(v['class_a_usd_per_million'])} a million). Audit logs of data access (`audit_data_access`) are {number(v['audit_entry_bytes'])} B for each
request to the bucket; a sweep, each {number(v['sweep_s'])} s in one replica of the fleet, lists `tokens/` in pages of {number(v['list_page'])}.

## Replicas

Every other replica that uses the same user in the same hour looks at the bucket, {v['look_reads']} reads each time (pauses from 1 s to
{v['lease_ttl_s']} s while it waits; once is usual). That takes as many jobs of that user in the hour as there are replicas, and no
ordering keys: the last column is a bound, not a forecast.

{self.spread()}

By slots ({v['concurrency']}) and by flow control ({self.outstanding} messages held, acknowledged every {v['ack_batch_s']:g} s), a replica does at most

{self.durations()}

{self.cpu()}

How the autoscaler follows (`deploy/sizing/autoscaler.py`, Cloud Monitoring three minutes late): Pub/Sub counts what replicas hold among what
waits, so that a target above {v['concurrency']} takes replicas from a busy fleet, and gives them back when jobs wait.

{self.simulated()}

## What a fleet costs without jobs

{self.fixed()}

Each worker more is {dollars(self.replica())} and {dollars(self.samples() + self.ending_sweeps())} of metrics and sweeps.

## Memory

{self.memory()}

{self.idle()} Besides, a replica holds messages: {self.outstanding}, and {number(v['client_outstanding_bytes'] / MIB)} MiB at most, and the bodies
of its jobs {number(v['body_memory_bytes'] / MIB)} MiB (`--body-memory`). The worst case is a full cache ({number(v['cached_users'] * self.user_bytes / MIB)} MiB), as many messages as it
may hold, and large bodies in all jobs: {number((v['idle_memory_bytes'] + v['cached_users'] * self.user_bytes + v['client_outstanding_bytes'] + v['body_memory_bytes']) / MIB)} MiB of the limit of {number(v['replica_memory_bytes'] / MIB)} MiB. Measured: 64 jobs with pages of 10 MiB, 64 uploads and 64 gzip
bombs at once took 188 MiB at most with no user in memory (`tests/tests/exact/memory.rs`).

The consent pages keep as many users: {number((v['idle_memory_bytes'] + v['cached_users'] * self.user_bytes) / MIB)} MiB with {number(v['cached_users'])} of them, of the limit of {number(v['web_memory_bytes'] / MIB)} MiB. They hold no messages and no large bodies.

## Where each limit bites

| limit | bites at | then |
|---|---|---|
| one object name, {v['object_writes_per_second']} write/s | never by refreshes: each name is written once per refresh, a lease also each {v['lease_ttl_s'] / 2:g} s while its holder waits. By logins in a loop, or a second fleet on the bucket | 429, repeated with pauses; FleetStorageThrottled |
| a new bucket, {number(v['bucket_writes_per_second'])} writes/s | {number(first_ramp)} users with jobs in every hour; sooner if all tokens fall due together (an import of {number(v['bucket_writes_per_second'] * v['refresh_ahead_s'] / v['refresh_writes'])} within {number(v['refresh_ahead_s'])} s) | it scales, at most double in {v['bucket_doubling_min']} min; spread imports |
| a new bucket, {number(v['bucket_reads_per_second'])} reads/s | a rollout of everything at once, with more than {number(cold)} jobs/s of users that are not in memory yet | roll out slowly (`maxSurge` 25 %) |
| token endpoint | users ÷ {number(self.period)} s requests a second: {number(USERS[-1] / self.period)} for {number(USERS[-1])} users. Google publishes no number for refreshes | ask Google before; 429 pauses refreshes, FleetRefreshesFail |
| one ordering key, {number(v['ordering_key_bytes_per_second'] / 1e6)} MB/s | {number(key)} jobs/s of one user, published | the publisher is throttled |
| one hot user | long before: one job at a time, so 1 ÷ seconds per job; *one user* in the table above | `--per-user`, if order does not matter; more replicas do not help |
| one replica's stream | slots and flow control: *one replica* in the table above | more replicas, or `--concurrency` |

## Inputs

{self.measured()}
"""


def main():
    model = Model(json.loads((HERE / "inputs.json").read_text(encoding="utf-8")))
    page = model.page()
    if sys.argv[1:] == ["--check"]:
        if PAGE.read_text(encoding="utf-8") != page:
            sys.exit(f"{PAGE.name} is not what its inputs make it: run python3 deploy/sizing/generate.py")
        print(f"{PAGE.name} is current")
    elif sys.argv[1:]:
        sys.exit("usage: generate.py [--check]")
    else:
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
