"""Rules, their tests, metrics and the dashboard's queries before Prometheus' own promtool, which
`make promtool` takes from the distribution's package (R1_PROMTOOL names it)."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.unit.watchbox import Box

HOME = Path(__file__).parents[2] / "docs" / "monitoring"


def promtool(*words: str | Path, stdin: str = "") -> str:
    done = subprocess.run(
        [os.environ.get("R1_PROMTOOL", "promtool"), *words],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_rules_are_rules() -> None:
    assert "11 rules found" in promtool("check", "rules", HOME / "alerts.yml")


def test_they_fire_when_they_should(tmp_path: Path) -> None:
    text = (Path(__file__).parent / "alerts.test.yml").read_text()
    (tmp_path / "alerts.test.yml").write_text(text.replace("ALERTS", str(HOME / "alerts.yml")))
    promtool("test", "rules", tmp_path / "alerts.test.yml")


def test_the_metrics_are_clean(tmp_path: Path) -> None:
    box = Box(tmp_path, settings={"ask_every_s": 900})
    box.look()
    assert promtool("check", "metrics", stdin=box.read("collector/r1fleet.prom")) == ""


@pytest.mark.parametrize("name", ["dashboard.json"])
def test_the_dashboards_queries_are_queries(name: str, tmp_path: Path) -> None:
    panels = json.loads((HOME / name).read_text())["panels"]
    rules = [
        {"record": f"panel:{panel['id']}:{number}", "expr": target["expr"]}
        for panel in panels
        for number, target in enumerate(panel["targets"])
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "p", "rules": rules}]}))
    promtool("check", "rules", tmp_path / "rules.yml")
