"""What the inventory's group `mirror` makes of a run, read from a real inventory of pyinfra."""

from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api import Inventory

from r1fleet import fleet
from r1fleet.mirror.plan import Fleet
from r1fleet.settings import Settings, SettingsError

HOSTS = [
    ("gpu1", {"ssh_hostname": "10.0.0.1"}),
    ("gpu2", {"ssh_hostname": "10.0.0.2"}),
    ("cache", {"ssh_hostname": "10.0.0.9"}),
]


def joined(settings: dict[str, Settings], cache: dict[str, Any] | None = None) -> Fleet:
    hosts = [(name, data | (cache or {} if name == "cache" else {})) for name, data in HOSTS]
    inventory = Inventory((hosts, {}), mirror=(["cache"], {}))
    whole: Any = SimpleNamespace(inventory=inventory)
    return fleet.with_mirrors(whole.inventory, settings)


def test_the_group_is_told_to_every_host_and_to_its_members() -> None:
    found = joined({name: Settings() for name, _ in HOSTS})
    assert {own.mirror_url for own in found.settings.values()} == {"http://10.0.0.9:5080"}
    assert list(found.mirrors) == ["cache"]
    assert "allow 10.0.0.2/32;" in found.mirrors["cache"].files[0].content


def test_a_mirror_beyond_the_limit_serves_as_it_is_set_up() -> None:
    found = joined({"gpu1": Settings()}, {"mirror_port": 6000, "serve": False})
    assert found.settings["gpu1"].mirror_url == "http://10.0.0.9:6000"


def test_a_wrong_setting_of_a_mirror_beyond_the_limit_is_told() -> None:
    with pytest.raises(SettingsError, match="cache: mirror_port: is not a whole number"):
        joined({"gpu1": Settings()}, {"mirror_port": "x"})
