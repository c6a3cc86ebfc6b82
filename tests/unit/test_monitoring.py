"""What docs/monitoring ships names only metrics that the watch really writes, with their labels.

What these texts are to Prometheus itself: make promtool.
"""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.watchbox import Box

HOME = Path(__file__).parents[2] / "docs" / "monitoring"
DASHBOARD = json.loads((HOME / "dashboard.json").read_text())
RULES = yaml.safe_load((HOME / "alerts.yml").read_text())["groups"][0]["rules"]
SELECTOR = re.compile(r"(r1fleet_[a-z_]+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'([a-z]+)(=~?)"([^"]*)"')
PROMETHEUS_OWN = ("instance",)  # labels that the scrape adds


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, set[str]]]:
    """Metric -> label -> its values, from a file of the watch."""
    box = Box(tmp_path_factory.mktemp("host"), settings={"ask_every_s": 900})
    box.look()
    found: dict[str, dict[str, set[str]]] = {}
    for line in box.read("collector/r1fleet.prom").splitlines():
        if not line.startswith("#"):
            match = SELECTOR.match(line)
            assert match
            labels = found.setdefault(match[1], {})
            for label, _, value in MATCHER.findall(match[2] or ""):
                labels.setdefault(label, set()).add(value)
    return found


def expressions() -> list[str]:
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return [*panels, *(rule["expr"] for rule in RULES)]


def test_every_query_is_of_metrics_that_there_are(
    written: dict[str, dict[str, set[str]]],
) -> None:
    for text in expressions():
        for name, matchers in SELECTOR.findall(text):
            assert name in written, text
            for label, how, value in MATCHER.findall(matchers):
                if label not in PROMETHEUS_OWN:
                    wanted = set(value.split("|")) if how == "=~" else {value}
                    assert wanted <= written[name].get(label, set()), text


def test_every_metric_is_documented(written: dict[str, dict[str, set[str]]]) -> None:
    text = (HOME / "README.md").read_text()
    rows = set(re.findall(r"^\| `(r1fleet_[a-z_]+)", text, re.MULTILINE))
    assert rows == set(written)


def test_every_fault_has_an_alert_and_a_word_in_the_docs(
    written: dict[str, dict[str, set[str]]],
) -> None:
    text = (HOME / "README.md").read_text()
    alerted = "|".join(re.findall(r'fault=~?"([a-z|]+)"', " ".join(r["expr"] for r in RULES)))
    for name in written["r1fleet_fault"]["fault"] - {"xid"}:  # that one is a counter's
        assert name in alerted.split("|")
        assert f"| `{name}` |" in text


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert "{{ $labels.instance }}" in rule["annotations"]["summary"]
        assert rule["annotations"]["what_to_do"]


def test_the_dashboards_panels_have_their_own_places_and_the_users_data_source() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        assert not _overlap(one, other)


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(
        one[at] < other[at] + other[size] and other[at] < one[at] + one[size]
        for at, size in (("x", "w"), ("y", "h"))
    )
