"""Simulates the workers' autoscaler, to choose its target.

    python3 deploy/sizing/autoscaler.py

Jobs arrive evenly, each takes a second, and a replica runs `concurrency` of them. The
HorizontalPodAutoscaler is that of kubernetes/base/autoscaler.yaml: it looks every 15 s at
Pub/Sub's number of undelivered messages, which is some minutes old and counts what replicas hold,
doubles at most in a minute, and takes a quarter away every two minutes after ten minutes of
wanting less. Time goes in steps of 15 s.
"""

import math
from collections import deque
from dataclasses import dataclass

STEP = 15
MINUTE = 60 // STEP


@dataclass
class Fleet:
    target: float
    concurrency: int = 64
    job_s: float = 1.0
    metric_late_s: int = 180
    start_s: int = 60
    least: int = 2
    most: int = 20
    down_after_s: int = 600


def desired(fleet, seen, replicas):
    """As Kubernetes reckons it for an average value, with its tolerance of a tenth."""
    if abs(seen / (replicas * fleet.target) - 1) <= 0.1:
        return replicas
    return math.ceil(seen / fleet.target)


def run(fleet, jobs_per_s, hours=4, replicas=2, backlog=0.0):
    """The number of replicas and of jobs that wait, at each step; `backlog` waits already."""
    late = fleet.metric_late_s // STEP
    undelivered = deque([0.0] * (late + 1), maxlen=late + 1)
    wanted = deque(maxlen=fleet.down_after_s // STEP)
    history = deque([replicas] * (2 * MINUTE), maxlen=2 * MINUTE)
    starting = deque([replicas] * max(1, fleet.start_s // STEP), maxlen=max(1, fleet.start_s // STEP))
    out = []
    for _ in range(hours * 60 * MINUTE):
        ready = min(starting[0], replicas)
        capacity = ready * fleet.concurrency * STEP / fleet.job_s
        backlog += jobs_per_s * STEP
        done = min(backlog, capacity)
        backlog -= done
        # What runs is undelivered too.
        undelivered.append(backlog + done * fleet.job_s / STEP)
        want = desired(fleet, undelivered[0], replicas)
        wanted.append(want)
        if want > replicas:
            # Twice as many as a minute ago, at most.
            limit = 2 * history[-MINUTE]
            replicas = max(replicas, min(want, limit, fleet.most))
        else:
            # The most that was wanted lately; a quarter less than two minutes ago, at most.
            calm = max(wanted) if len(wanted) == wanted.maxlen else replicas
            limit = math.floor(0.75 * history[0])
            replicas = min(replicas, max(calm, limit, fleet.least))
        history.append(replicas)
        starting.append(replicas)
        out.append((replicas, backlog))
    return out


def summary(steps):
    """After the first hour: fewest and most replicas, how often their number changed, and the longest
    wait of a job, in seconds, at the rate at which jobs are done then."""
    settled = steps[60 * MINUTE:]
    counts = [replicas for replicas, _ in settled]
    changes = sum(a != b for a, b in zip(counts, counts[1:]))
    return min(counts), max(counts), changes, max(backlog for _, backlog in settled)


def main():
    print("target  jobs/s  replicas  changes in 3 h  most that waits")
    for target in [256, 64, 48]:
        for jobs in [100, 300, 600, 900]:
            least, most, changes, waits = summary(run(Fleet(target), jobs))
            print(f"{target:6}  {jobs:6}  {least:3}-{most:<4}  {changes:14}  {waits:15,.0f}")


if __name__ == "__main__":
    main()
