"""The watch comes to a host whole, is left alone once it is there, and goes without a trace."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from r1fleet import outcome, paths
from r1fleet.hostfacts import Probe, Unit
from r1fleet.settings import Settings
from r1fleet.watch import install
from r1fleet.watch.wanted import TIMER, watch
from tests.operations import fakehost
from tests.operations.fakehost import FakeHost
from tests.unit.build import RUNNING
from tests.unit.served import choice_of, served

SYSTEMCTL = '#!/bin/sh\necho "$*" >>"$ROOT/deeds"\n'
PLACES = (paths.WATCH, paths.WATCH_CONF, paths.WATCH_UNIT, paths.WATCH_TIMER)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    monkeypatch.setattr(outcome, "_outcomes", {})
    moved = (*fakehost.MOVED, "/etc/r1fleet", "/etc/systemd", "/var/lib/prometheus", "/srv/metrics")
    monkeypatch.setattr(fakehost, "MOVED", moved)
    found = FakeHost(tmp_path, "h")
    found.tool("systemctl", SYSTEMCTL)
    found.tool("chown", "#!/bin/sh\n")
    return found


def bare() -> Probe:
    """A host that serves and has no watch yet."""
    probe = served()
    return replace(
        probe,
        files={path: digest for path, digest in probe.files.items() if path not in PLACES},
        units={name: unit for name, unit in probe.units.items() if name != TIMER},
    )


def bring(host: FakeHost, probe: Probe, **settings: Any) -> Sequence[str]:
    """Install it with these settings; returns what was asked of systemctl."""
    choice = choice_of(probe)
    assert choice
    (host.root / "deeds").unlink(missing_ok=True)
    assert host.play(install.install._inner(probe, watch(Settings(**settings), choice, probe)))
    deeds = host.root / "deeds"
    return deeds.read_text().splitlines() if deeds.exists() else []


def test_it_comes_whole_and_its_timer_is_started(host: FakeHost) -> None:
    deeds = bring(host, bare())
    assert deeds == ["daemon-reload", f"enable -q {TIMER}", f"restart {TIMER}"]
    assert all(host.at(path).is_file() for path in PLACES)
    assert host.at(paths.WATCH).stat().st_mode & 0o777 == 0o755
    assert host.at(paths.WATCH_CONF).stat().st_mode & 0o777 == 0o644
    assert host.at(paths.WATCH_DIR).is_dir()


def test_where_it_is_nothing_is_sent(host: FakeHost) -> None:
    assert bring(host, served()) == []
    assert host.scripts == []


@pytest.mark.parametrize("changed", [{"active": "inactive"}, {"enabled": False}])
def test_a_stopped_or_disabled_timer_is_started(host: FakeHost, changed: dict[str, Any]) -> None:
    units = {**served().units, TIMER: replace(RUNNING, **changed)}
    assert f"restart {TIMER}" in bring(host, replace(served(), units=units))
    assert len(host.scripts) == 1


def test_the_collectors_folder_by_the_settings_is_made_and_the_former_one_cleaned(
    host: FakeHost,
) -> None:
    former = host.at("/var/lib/prometheus/node-exporter")
    former.mkdir(parents=True)
    bring(host, bare())
    # As it lies on the host.
    conf = host.at(paths.WATCH_CONF)
    conf.write_text(conf.read_text().replace("/var/lib/prometheus", str(former.parent)))
    (former / "r1fleet.prom").touch()
    (former / "others.prom").touch()
    bring(host, bare(), watch_textfile_dir="/srv/metrics")
    assert [path.name for path in former.iterdir()] == ["others.prom"]
    assert host.at("/srv/metrics").is_dir()


def test_it_goes_with_all_that_it_wrote(host: FakeHost) -> None:
    bring(host, bare(), watch_textfile_dir="/srv/metrics")
    conf = host.at(paths.WATCH_CONF)
    conf.write_text(conf.read_text().replace("/srv/metrics", str(host.at("/srv/metrics"))))
    (host.at("/srv/metrics") / "r1fleet.prom").touch()
    (host.at(paths.WATCH_DIR) / "state").touch()
    assert host.play(install.remove._inner(served()))
    assert not any(host.at(path).exists() for path in (*PLACES, paths.WATCH_DIR))
    assert list(host.at("/srv/metrics").iterdir()) == []
    assert f"disable -q --now {TIMER}" in (host.root / "deeds").read_text()


def test_where_there_is_none_nothing_is_taken_away(host: FakeHost) -> None:
    probe = replace(bare(), units={**bare().units, TIMER: Unit()})
    assert list(install.remove._inner(probe)) == []


def test_what_the_host_should_be_like_follows_the_plan() -> None:
    probe = served()
    choice = choice_of(probe)
    assert choice

    def conf(**settings: Any) -> str:
        return watch(Settings(**settings), choice, probe).files[1].content

    assert "\ngpu_kind=nvidia\ngpus=1\nfor_ever=1\n" in conf()
    assert "\nfor_ever=''\n" in conf(ollama_keep_alive="5m")
    assert "\nextras=all-minilm:latest\n" in conf(extra_models=("all-minilm",))
    assert "\nport=8080\n" in conf(ollama_host="127.0.0.1:8080")
    on_cpu = watch(Settings(), replace(choice, placement="cpu"), probe).files[1].content
    assert "\ngpu_kind=none\ngpus=0\n" in on_cpu


def test_the_unit_can_ask_for_the_disk_of_models_below_home() -> None:
    """Behind ProtectHome=yes /home is an empty folder, and a full disk no fault."""
    probe = served()
    choice = choice_of(probe)
    assert choice
    unit = watch(Settings(ollama_models="/home/models"), choice, probe).files[2].content
    assert "\nProtectHome=read-only\n" in unit
