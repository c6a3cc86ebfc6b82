"""The picture of a run: at most one line a host, the longest first, within the terminal."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from r1fleet.moving import Moving, Speed
from r1fleet.progress import HostLine, clock, picture


def drawn(
    hosts: list[HostLine], width: int = 100, height: int = 20, plain: bool = True
) -> list[str]:
    console = Console(file=io.StringIO(), width=width, record=True, force_terminal=True)
    console.print(picture(hosts, width, height, 42.0, plain=plain))
    return [line.rstrip() for line in console.export_text().splitlines()]


def pulling(host: str, done_bytes: int, bytes_per_s: float) -> HostLine:
    moving = Moving("deepseek-r1:14b", done_bytes, 9 * 10**9, bytes_per_s)
    return HostLine(host, "pull", "brings it", 5.0, moving)


def test_a_download_shows_bytes_rate_and_time_left() -> None:
    (line, _) = drawn([pulling("gpu1", 4_500_000_000, 100e6)])
    assert line.startswith("gpu1 pull    deepseek-r1:14b ############------------  50 %")
    assert line.endswith("50 % 4.5 GB of 9.0 GB 100.0 MB/s 0:45 left")


def test_a_download_that_does_not_move_promises_nothing() -> None:
    (line, _) = drawn([pulling("gpu1", 4_500_000_000, 0.0)])
    assert line.endswith("50 % 4.5 GB of 9.0 GB")


def test_the_longest_is_first_and_downloads_are_before_the_others() -> None:
    hosts = [
        HostLine("a", "driver", "installs", 10.0),
        pulling("b", 8_000_000_000, 100e6),
        HostLine("c", "driver", "installs", 100.0),
        pulling("d", 1_000_000_000, 100e6),
    ]
    assert [line[0] for line in drawn(hosts)[:-1]] == ["d", "b", "c", "a"]


def test_hosts_that_are_over_or_have_not_begun_are_counted_only() -> None:
    hosts = [
        HostLine("a", "verify", "asks", 1.0, is_over=True),
        HostLine("b", "pull", "fails", 1.0, is_over=True, has_failed=True),
        HostLine("c"),
        HostLine("d", "engine", "starts Ollama", 3.0),
    ]
    lines = drawn(hosts)
    assert len(lines) == 2
    assert lines[0].startswith("d engine  starts Ollama")
    assert lines[0].endswith(" 0:03")
    assert lines[1] == "0:42  4 hosts: 1 at work, 1 waiting, 1 failed, 1 finished"


def test_more_hosts_than_lines_are_said_to_be_more() -> None:
    hosts = [HostLine(f"h{i}", "driver", "installs", float(i)) for i in range(40)]
    lines = drawn(hosts, height=10)
    assert len(lines) == 8
    assert lines[0].startswith("h39 ")
    assert lines[6] == "and 34 more at work"


def test_a_narrow_terminal_keeps_share_rate_and_time() -> None:
    (line, _) = drawn([pulling("a-rather-long-name", 4_500_000_000, 100e6)], width=60)
    assert line.endswith(" 50 % 100.0 MB/s 0:45 left")
    assert "GB" not in line


def test_bars_are_of_letters_that_the_terminal_has() -> None:
    (line, _) = drawn([pulling("a", 4_500_000_000, 100e6)], plain=True)
    assert line.isascii()
    (line, _) = drawn([pulling("a", 4_500_000_000, 100e6)], plain=False)
    assert not line.isascii()


def test_a_download_that_hardly_moves_has_no_time_left() -> None:
    assert Moving("deepseek-r1:14b", 0, 9_000_000_000, 5e-324).left_s is None


names = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=40)
texts = st.text(st.characters(codec="ascii", exclude_categories=("C",)), max_size=200)
movings = st.builds(
    Moving,
    st.just("deepseek-r1:671b"),
    st.integers(0, 10**13),
    st.integers(0, 10**12),
    st.floats(0, 1e10),
)
lines = st.builds(
    HostLine, names, st.sampled_from(["", "pull", "driver"]), texts, st.floats(0, 1e6),
    st.none() | movings, st.booleans(), st.booleans(),
)  # fmt: skip


@given(st.lists(lines, max_size=30), st.integers(20, 200), st.integers(4, 60), st.booleans())
def test_it_never_leaves_the_terminal(
    hosts: list[HostLine], width: int, height: int, plain: bool
) -> None:
    found = drawn(hosts, width, height, plain)
    assert len(found) < height
    assert all(len(line) <= width for line in found)


def test_a_rate_is_that_of_the_last_seconds() -> None:
    speed = Speed()
    assert speed.note(0.0, 0) == 0.0
    for second in range(1, 60):
        speed.note(float(second), 10 * second)
    for second in range(60, 90):
        rate = speed.note(float(second), 590 + 1000 * (second - 59))
    assert rate == pytest.approx(1000, rel=0.01)
    assert speed.note(90.0, 5) == 0.0  # begun anew


def test_clocks() -> None:
    assert [clock(s) for s in (0, 42, 725, 3600)] == ["0:00", "0:42", "12:05", "1:00:00"]
