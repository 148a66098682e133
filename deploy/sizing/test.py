"""SIZING.md's figures, reckoned once more and by another way, and what the autoscaler is chosen for.

    python3 deploy/sizing/test.py

Each figure is found in the page by the words beside it. The other reckoning takes prices as they are
published (inputs.json says where, and as of when) and shares no code and no inputs with the page's; both must agree within a
fifth.
"""

import re
import sys
from pathlib import Path

import autoscaler

PAGE = (Path(__file__).resolve().parents[1] / "SIZING.md").read_text(encoding="utf-8")
HOURS = 365 * 24 / 12
FIFTH = 0.2

# Requests of a user with jobs in every hour: a token is renewed 55 minutes after the last one.
RENEWALS = HOURS * 60 / 55

# (words that begin the line, which column, what it is reckoned to be)
FIGURES = [
    # Two writes at $5 and one read at $0.40 a million.
    ("| 1,000 | 0.3 |", 5, 1000 * RENEWALS * (2 * 5 + 0.4) / 1e6),
    ("| 10,000,000 | 3,030 |", 5, 1e7 * RENEWALS * (2 * 5 + 0.4) / 1e6),
    # Once a day: a cold read besides. Pub/Sub: 4 kB in and out at $40 a TiB.
    ("| 1,000,000 | 61 |", 3, 1e6 * 30.4 * (2 * 5 + 2 * 0.4) / 1e6),
    ("| 1,000,000 | 61 |", 4, 1e6 * 30.4 * 4000 / 2**40 * 40),
    # A multi-region: $10 a million writes. Audit logs: three entries of 1.5 kB at $0.50 a GiB.
    ("| 10,000 | $162 |", 1, 1e4 * RENEWALS * (2 * 10 + 0.4) / 1e6),
    ("| 10,000 | $162 |", 2, 1e4 * RENEWALS * 3 * 1500 / 2**30 * 0.5),
    # 144 sweeps a day, each of a page for a thousand users and two others, at $5 a million.
    ("| 1,000,000 | $16,", 3, 144 * 30.4 * 1002 * 5 / 1e6),
    # A core at $0.0445 and a GiB at $0.0049 an hour, half of each.
    ("| 10 | 1,000,000 |", 3, 10 * HOURS * (0.0445 + 0.0049) / 2),
    ("| cluster |", 1, 0.10 * HOURS),
    ("| load balancer", 1, 0.025 * HOURS),
    ("| NAT", 1, (3 * 0.0014 + 0.005) * HOURS),
    ("| 2 pages |", 1, 2 * HOURS * (0.1 * 0.0445 + 0.25 * 0.0049)),
    ("| two idle workers |", 1, HOURS * (0.0445 + 0.0049)),
    # Series and buckets, twice a minute, $0.06 a million samples; pages have fewer.
    ("| their metrics", 1, 3 * (170 + 13 * 7) * 2 * 60 * HOURS * 0.06 / 1e6),
    # Jobs: slots, and a core for each 10,000.
    ("| 0.3 s |", 1, 64 / 0.3),
    ("| 10,000,000 | 2,778 |", 2, 2778 * 0.3 / 64 + 2),
]
# (words before, what follows them is reckoned to be)
TEXTS = [
    ("A million jobs are $", 1e6 * 4000 / 2**40 * 40),
    ("Their log lines are $", 1e6 * 900 / 2**30 * 0.5),
    ("would add $", 5 + 0.4),
    ("One core does ", 1e6 / 99.2),
]


def figure(text):
    return float(re.sub(r"[$,*]", "", text.split()[0]))


def faults():
    found = []

    def close(what, page, reckoned):
        if abs(page - reckoned) > FIFTH * reckoned:
            found.append(f"{what}: the page has {page:g}, reckoned is {reckoned:g}")

    for start, column, reckoned in FIGURES:
        lines = [line for line in PAGE.splitlines() if line.startswith(start)]
        if len(lines) != 1:
            found.append(f"{start}: {len(lines)} lines")
            continue
        close(start, figure(lines[0].split("|")[column + 1].strip()), reckoned)
    for words, reckoned in TEXTS:
        if PAGE.count(words) != 1:
            found.append(f"{words}: {PAGE.count(words)} times")
            continue
        close(words, figure(PAGE.split(words)[1]), reckoned)
    # The processor is said of one measurement, wherever it is said.
    readme = Path(__file__).resolve().parents[2] / "tests/bench/README.md"
    words = " µs of processor time for a job of one request"
    micros = readme.read_text(encoding="utf-8").split(words)[0].split()[-1]
    close("the bench's processor time", figure(PAGE.split("One core does ")[1]), 1e6 / figure(micros))
    return found


def scaling():
    """A target above what a replica runs swings; three quarters of it settle, and nothing waits."""
    found = []
    for jobs in [100, 300, 600, 900]:
        least, most, changes, waits = autoscaler.summary(autoscaler.run(autoscaler.Fleet(48), jobs))
        needed = -(-jobs // 64)
        if least != most or not needed <= least <= max(2, 1.5 * needed) or changes or waits:
            found.append(f"48: {jobs} jobs/s: {least} to {most} replicas, {waits:g} wait")
    least, most, changes, _ = autoscaler.summary(autoscaler.run(autoscaler.Fleet(256), 600))
    if most - least < 5 or changes < 10:
        found.append(f"256 does not swing in the simulation: {least} to {most}")
    # Ten thousand jobs at once are done, and the replicas go again.
    burst = autoscaler.run(autoscaler.Fleet(48), 0, hours=3, backlog=10_000)
    if burst[60 * autoscaler.MINUTE][1] > 0 or burst[-1][0] != 2:
        found.append(f"a burst ends with {burst[-1]}")
    return found


def main():
    found = faults() + scaling()
    print("\n".join(found) if found else f"{len(FIGURES) + len(TEXTS) + 1} figures agree, and the autoscaler settles")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
