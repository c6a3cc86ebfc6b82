"""What happens to be free on a card moves no decision."""

import pytest

from tests.lab.conftest import Lab, Run
from tests.lab.test_trouble import Broken

pytestmark = pytest.mark.lab


def test_memory_taken_by_another_process_is_one_note_and_no_change(
    lab: Lab, served: Run, broken: Broken
) -> None:
    broken(
        "t4",
        "cp /bin/sleep /usr/local/bin/game;"
        " R1LAB_VRAM=0=4096 setsid game 600 >/dev/null 2>&1 </dev/null &",
        "pkill -x game; rm -f /usr/local/bin/game",
    )
    run = lab.deploy("--limit", "t4")
    assert run.code == 0, run.output
    row = run.row("t4")
    assert row["verdict"] == "as wanted"
    assert row["changes"] == []
    assert row["tag"] == served.row("t4")["tag"]
    (note,) = row["notes"]
    assert "4097 MiB of GPU memory are used by game" in note
