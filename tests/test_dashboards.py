"""What watches the service asks only for what the service tells: panels, recording rules, alerts and their runbook.

Grafana itself is not run here: its dashboard is held to what every Grafana asks of one. Prometheus' own tool checks and
tries the rules, in .ci/deploy.py.
"""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

from service import telemetry

DEPLOY = Path(__file__).parent.parent / "deploy"
OPERATIONS = DEPLOY.parent / "docs" / "operations.md"
OF_PROMETHEUS = {"up": set(), "ALERTS": {"alertname", "alertstate", "severity"}}
OF_TARGETS = {"job", "instance"}
WORDS = {"and", "or", "unless"}
OF_THE_QUEUE = ("omgsr_queue_", "omgsr_workers_alive", "omgsr_stored_", "omgsr_dead_letters_kept")


def read(path: str) -> Any:
    return yaml.safe_load((DEPLOY / path).read_text("utf-8"))


def rules(path: str, kind: str) -> list[dict[str, Any]]:
    return [rule for group in read(f"prometheus/{path}")["groups"] for rule in group["rules"] if kind in rule]


RECORDED = {rule["record"]: rule["expr"] for rule in rules("rules.yml", "record")}
ALERTS = {rule["alert"]: rule for rule in rules("alerts.yml", "alert")}
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/omgsr.json").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def told() -> dict[str, set[str]]:
    """The labels of every series that the processes tell, by its name."""
    found: dict[str, set[str]] = {}
    for metric in vars(telemetry).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            name, labels = metric._name, set(metric._labelnames)
            if isinstance(metric, Histogram):
                found |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
            else:
                found[f"{name}_total" if isinstance(metric, Counter) else name] = labels
    return found


def level(name: str) -> set[str]:
    """The labels of a recorded series, as its name tells them: `transport_model:…`, or `omgsr:…` for none."""
    first = name.partition(":")[0]
    return set() if first == "omgsr" else set(first.split("_"))


KNOWN = told() | {name: level(name) for name in RECORDED} | OF_PROMETHEUS


def expressions() -> Iterator[tuple[str, str, str]]:
    """Where it stands, the expression, and what is made of its labels."""
    yield from ((name, expr, "") for name, expr in RECORDED.items())
    for name, alert in ALERTS.items():
        yield name, alert["expr"], " ".join(alert["annotations"].values())
    for panel in PANELS:
        yield from ((panel["title"], target["expr"], target["legendFormat"]) for target in panel["targets"])
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"], annotation["titleFormat"] + annotation["textFormat"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            [(name, label)] = re.findall(r"^label_values\((\w+), (\w+)\)$", variable["query"]["query"])
            yield variable["name"], name, f"{{{{{label}}}}}"


def series(expr: str) -> set[str]:
    """The names of the series that an expression asks for."""
    bare = re.sub(r'"[^"]*"|\[[^]]*]', "", expr)
    bare = re.sub(r"\{[^}]*}|\b(by|without|on|ignoring) ?\([^)]*\)", "", bare)
    return set(re.findall(r"(?<![\w.])[a-zA-Z_:][\w:]*\b(?! *\()", bare)) - WORDS


def labels(expr: str, made: str) -> set[str]:
    """The labels that an expression, or what is made of its answer, names."""
    inside = re.findall(r"\{([^{}]*)}", re.sub(r'"[^"]*"', '""', expr))
    asked = {name for matchers in inside for name in re.findall(r"(\w+) ?(?:=~|!~|!=|=)", matchers)}
    kept = {name.strip() for names in re.findall(r"\bby \(([^)]*)\)", expr) for name in names.split(",")}
    return asked | kept | set(re.findall(r"\{\{ ?(?:\$labels\.)?(\w+) ?}}", made))


@pytest.mark.parametrize(("where", "expr", "made"), [pytest.param(*each, id=each[0]) for each in expressions()])
def test_every_series_and_label_that_is_asked_for_exists(where, expr, made):
    asked = series(expr)
    assert asked
    assert asked <= KNOWN.keys()
    assert labels(expr, made) <= OF_TARGETS.union(*(KNOWN[name] for name in asked))


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_series_says_in_its_name_which_labels_it_keeps(name):
    kept = [set(names.replace(" ", "").split(",")) - {"le"} for names in re.findall(r"by \(([^)]*)\)", RECORDED[name])]
    assert all(each == level(name) for each in kept)
    assert kept or not level(name)


@pytest.mark.parametrize(("where", "expr", "made"), [pytest.param(*each, id=each[0]) for each in expressions()])
def test_what_each_api_process_tells_of_the_queue_is_not_added_up(where, expr, made):
    if expr in KNOWN:
        return  # the variable's: it asks for names, not for figures
    for name in series(expr):
        if name.startswith(OF_THE_QUEUE) and not name.startswith("omgsr_queue_wait"):
            assert len(re.findall(rf"\b(?:max|min)(?: by \(model\))? ?\({name}\)", expr)) == expr.count(name)


def test_every_alert_has_its_severity_its_words_and_its_row_in_the_runbook():
    row = r'^\| <a id="(\w+)"></a>\*\*(\w+)\*\* \| [^|]+ \| [^|]+ \| [^|]+ \|$'
    answered = re.findall(row, OPERATIONS.read_text("utf-8"), re.MULTILINE)
    assert sorted(answered) == sorted((name.lower(), name) for name in ALERTS)
    for name, alert in ALERTS.items():
        assert alert["labels"]["severity"] in {"warning", "critical"}
        assert alert["annotations"].keys() == {"summary", "description", "runbook"}
        assert alert["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
        assert alert["for"]


def test_every_alert_is_seen_to_fire_and_to_be_quiet():
    tried = [asked for test in read("prometheus/tests/alerts.yml")["tests"] for asked in test["promql_expr_test"]]
    assert {asked["expr"] for asked in tried} == {"ALERTS", 'ALERTS{alertstate="firing"}'}  # so none fires unseen
    samples = [[sample["labels"] for sample in asked.get("exp_samples", [])] for asked in tried]
    fired = {re.findall(r'alertname="(\w+)"', each)[0] for firing in samples for each in firing}
    assert fired == ALERTS.keys()
    assert samples.count([]) >= len(ALERTS)


# The dashboard -----------------------------------------------------------------------------------------------------


def test_panels_have_their_own_numbers_and_places():
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(each["x"] >= 0 and each["x"] + each["w"] <= 24 and each["h"] > 0 for each in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_and_asks_the_chosen_source(panel):
    assert panel["type"] in {"stat", "timeseries"}
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in {"none", "s", "bytes", "percentunit", "reqps"}
    references = [target["refId"] for target in panel["targets"]]
    assert len(set(references)) == len(references) > 0
    for each in (panel, *panel["targets"]):
        assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_the_dashboard_is_found_where_it_is_provisioned_and_its_variables_exist():
    assert DASHBOARD["uid"]
    assert len(DASHBOARD["uid"]) <= 40
    assert DASHBOARD["schemaVersion"] >= 36  # panels name their source by uid
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["query"] == "prometheus"
    assert set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(DASHBOARD))) == variables.keys()

    grafana = yaml.safe_load((DEPLOY.parent / "docker-compose.yml").read_text("utf-8"))["services"]["grafana"]
    mounts = dict(mount.removesuffix(":ro").split(":") for mount in grafana["volumes"])
    [provider] = read("grafana/provisioning/dashboards/omgsr.yml")["providers"]
    assert mounts["./deploy/grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    [source] = read("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
