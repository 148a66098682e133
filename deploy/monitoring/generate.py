"""Writes what follows from monitoring/alerts.yaml and monitoring/tiles.json: the alerts for Managed
Service for Prometheus, and the dashboard for Cloud Monitoring and for Grafana.

    python3 deploy/monitoring/generate.py           # writes them
    python3 deploy/monitoring/generate.py --check   # says whether they are current

Managed Service for Prometheus takes rules as Kubernetes objects. `Rules` see the metrics of their
own namespace only, so that rules about Pub/Sub and about missing replicas need `GlobalRules`.
Both dashboards show one fleet: its namespace and its subscriptions are chosen at their top.
"""

import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "alerts.yaml"
COPY = HERE.parent / "kubernetes" / "base" / "alerts.yaml"
TILES = HERE / "tiles.json"
# What is chosen at the top of a dashboard, and what it is until then.
CHOICES = {"namespace": "fleet", "subscription": "jobs-workers", "dead_subscription": "jobs-dead-review"}
WIDTH, HEIGHT = 6, 4
# The groups that see more than one namespace.
GLOBAL = {"fleet-cluster"}

HEAD = """\
# Made by monitoring/generate.py from monitoring/alerts.yaml: change that. `Rules` see this namespace's
# metrics only, so that what others tell of the fleet needs `GlobalRules`. Where alerts go is for
# monitoring/alertmanager.yaml (deploy/README.md).
"""


def groups(text):
    """The text of each group, by its name."""
    body = text.split("\ngroups:\n", 1)[1]
    kept = [line for line in body.splitlines() if not line.lstrip().startswith("#")]
    parts = ("\n" + "\n".join(kept)).split("\n  - name: ")[1:]
    return {part.split("\n", 1)[0]: f"  - name: {part}" for part in parts}


def resource(kind, name, parts):
    lines = "\n".join(parts).rstrip("\n").splitlines()
    indented = "\n".join(f"  {line}" if line else "" for line in lines)
    return (
        f"apiVersion: monitoring.googleapis.com/v1\nkind: {kind}\nmetadata:\n  name: {name}\n"
        f"spec:\n  groups:\n{indented}\n"
    )


def copy():
    found = groups(SOURCE.read_text(encoding="utf-8"))
    everywhere = [part for name, part in found.items() if name in GLOBAL]
    own = [part for name, part in found.items() if name not in GLOBAL]
    return HEAD + resource("GlobalRules", "fleet", everywhere) + "---\n" + resource("Rules", "fleet", own)


def chosen(query, variable):
    """The query for the fleet that is chosen; `variable` says how a dashboard writes one."""
    for name in ["subscription", "dead_subscription"]:
        query = query.replace(f'"{CHOICES[name]}"', f'"{variable(name)}"')
    own = f'namespace="{variable("namespace")}"'
    query = re.sub(r"\b((?:fleet_|slo:)[a-z0-9_:]+)\{", rf"\1{{{own},", query)
    return re.sub(r"\b((?:fleet_|slo:)[a-z0-9_:]+)(?![a-z0-9_:{])", rf"\1{{{own}}}", query)


def places(sections):
    """Every tile with its place: two in a row under the heading of their section, which is None."""
    y = 0
    for section in sections:
        yield section, None, 0, y
        y += 1
        for at, tile in enumerate(section["tiles"]):
            yield section, tile, at % 2 * WIDTH, y + at // 2 * HEIGHT
        y += (len(section["tiles"]) + 1) // 2 * HEIGHT


def data_set(tile, query):
    shown = {
        "plotType": "STACKED_AREA" if tile.get("stacked") else "LINE",
        "targetAxis": "Y1",
        "timeSeriesQuery": {
            "prometheusQuery": chosen(query["query"], lambda name: f"${{{name}.value}}"),
            "unitOverride": query["unit"],
        },
    }
    return {**shown, "legendTemplate": query["legend"]} if "legend" in query else shown


def cloud_monitoring(sections):
    tiles = []
    for section, tile, x, y in places(sections):
        if tile is None:
            heading = {"title": section["section"], "sectionHeader": {"dividerBelow": True}}
            tiles.append({"xPos": 0, "yPos": y, "width": 2 * WIDTH, "height": 1, "widget": heading})
            continue
        chart = {"dataSets": [data_set(tile, query) for query in tile["queries"]], "yAxis": {"scale": "LINEAR"}}
        place = {"xPos": x, "yPos": y, "width": WIDTH, "height": HEIGHT}
        tiles.append({**place, "widget": {"title": tile["title"], "xyChart": chart}})
    filters = [
        {"filterType": "VALUE_ONLY", "templateVariable": name, "stringValue": value, "valueType": "STRING"}
        for name, value in CHOICES.items()
    ]
    return {"displayName": "Fleet", "dashboardFilters": filters, "mosaicLayout": {"columns": 2 * WIDTH, "tiles": tiles}}


UNITS = {"1": "short", "s": "s", "1/s": "ops"}


def target(query, letter):
    return {
        "refId": letter,
        "expr": chosen(query["query"], lambda name: f"${name}"),
        "legendFormat": query.get("legend", "__auto"),
    }


def grafana(sections):
    panels = []
    for number, (section, tile, x, y) in enumerate(places(sections), 1):
        if tile is None:
            grid = {"x": 0, "y": y, "w": 24, "h": 1}
            panels.append({"id": number, "type": "row", "title": section["section"], "collapsed": False, "panels": [], "gridPos": grid})
            continue
        custom = {"stacking": {"mode": "normal"}, "fillOpacity": 20} if tile.get("stacked") else {}
        panels.append({
            "id": number,
            "type": "timeseries",
            "title": tile["title"],
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "gridPos": {"x": 2 * x, "y": y, "w": 2 * WIDTH, "h": HEIGHT},
            "fieldConfig": {"defaults": {"unit": UNITS[tile["queries"][0]["unit"]], "min": 0, "custom": custom}, "overrides": []},
            "targets": [target(query, chr(ord("A") + at)) for at, query in enumerate(tile["queries"])],
        })
    variables = [{"name": "datasource", "type": "datasource", "query": "prometheus"}]
    variables += [
        {"name": name, "type": "textbox", "query": value, "current": {"text": value, "value": value}}
        for name, value in CHOICES.items()
    ]
    return {
        "title": "Fleet",
        "uid": "fleet",
        "schemaVersion": 39,
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "1m",
        "templating": {"list": variables},
        "panels": panels,
    }


def main():
    sections = json.loads(TILES.read_text(encoding="utf-8"))
    made = {
        COPY: copy(),
        HERE / "dashboard.json": json.dumps(cloud_monitoring(sections), indent=2, ensure_ascii=False) + "\n",
        HERE / "grafana.json": json.dumps(grafana(sections), indent=2, ensure_ascii=False) + "\n",
    }
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        sys.exit("usage: generate.py [--check]")
    stale = [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if not check:
            path.write_text(made[path], encoding="utf-8")
    if check and stale:
        names = ", ".join(path.name for path in stale)
        sys.exit(f"not what monitoring/ makes of it: {names}. Run python3 deploy/monitoring/generate.py")
    print(f"{len(made)} files are current")


if __name__ == "__main__":
    main()
