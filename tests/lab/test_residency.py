"""The planned placement is what the engine does, on every host of whichever lab is up.

For ten more layouts than the default: make lab-layouts
"""

import pytest

from tests.lab.conftest import Lab, Run

pytestmark = pytest.mark.lab

MIB = 1024**2


def test_planned_residency_is_that_of_the_engine(lab: Lab, served: Run) -> None:
    for host in lab.hosts:
        chosen = served.row(host)["plan"]["chosen"]
        (loaded,) = lab.api(host, "/api/ps")["models"]
        assert loaded["name"] == f"deepseek-r1:{chosen['tag']}", host
        assert loaded["context_length"] == chosen["context"], host
        if chosen["placement"] == "cpu":
            assert loaded["size_vram"] == 0, host
            continue
        assert loaded["size_vram"] == loaded["size"], host
        planned = sum(chosen["needed_mib"])
        assert loaded["size_vram"] / MIB == pytest.approx(planned, rel=0.05), host
