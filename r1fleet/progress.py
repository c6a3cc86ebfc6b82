"""How far a run is, as a picture of at most one line a host. Pure: figures in, text out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.text import Text

from r1fleet.model.manifest import human
from r1fleet.moving import Moving

BAR_MOST = 24
BAR_LEAST = 8
NAME_MOST = 24  # letters of a host's name
ROOMY = 80  # columns; below it the bytes are left out


@dataclass(frozen=True)
class HostLine:
    """Where a host is. `stage` "" has not begun; `is_over` is done or failed."""

    host: str
    stage: str = ""
    text: str = ""
    at_work_s: float = 0.0  # in what it does now
    moving: Moving | None = None
    is_over: bool = False
    has_failed: bool = False


def picture(
    hosts: Sequence[HostLine], width: int, height: int, passed_s: float, *, plain: bool = False
) -> Group:
    """Hosts at work, the longest first, as many as there is room for, and a line of sums.

    + width, height: of the terminal
    + passed_s: since the display began
    + plain: no letters beyond ASCII
    """
    busy = sorted((host for host in hosts if host.stage and not host.is_over), key=_order)
    room = max(1, height - 3)
    shown = busy if len(busy) <= room else busy[: max(1, room - 1)]
    names = min(NAME_MOST, max((len(host.host) for host in shown), default=0))
    figures = max((len(_figures(host, width)) for host in shown), default=0)
    lines = [_line(host, names, figures, width, plain) for host in shown]
    if hidden := len(busy) - len(shown):
        lines.append(Text(f"and {hidden} more at work", "dim"))
    return Group(*lines, _cut(_sums(hosts, len(busy), passed_s), width))


def _order(host: HostLine) -> tuple[int, float, str]:
    """Downloads by the time they still take, then the others by how long they are at it."""
    left_s = host.moving.left_s if host.moving else None
    return (0, -left_s, host.host) if left_s is not None else (1, -host.at_work_s, host.host)


def _line(host: HostLine, names: int, columns: int, width: int, plain: bool) -> Text:
    """`names` and `columns` are the room for the name and for the figures."""
    line = Text(f"{host.host[:names]:<{names}} ", "bold").append(f"{host.stage[:7]:<7} ", "cyan")
    figures = _figures(host, width).rjust(columns if host.moving else 0)
    what = host.moving.name if host.moving else host.text
    room = width - len(line) - len(figures) - 1
    if host.moving:
        bar = min(BAR_MOST, room - len(what) - 1)
        if bar >= BAR_LEAST:
            line.append(f"{what} ", "not bold").append_text(_bar(host.moving.share, bar, plain))
            return _cut(line.append(f" {figures}", "not bold"), width)
    told = what if len(what) <= room else what[: max(0, room - 2)] + ".."
    return _cut(line.append(f"{told:<{max(0, room)}} {figures}", "not bold"), width)


def _figures(host: HostLine, width: int) -> str:
    moving = host.moving
    if moving is None:
        return clock(host.at_work_s)
    told = [f"{100 * moving.share:3.0f} %"]
    if width >= ROOMY:
        told.append(f"{human(moving.done_bytes)} of {human(moving.total_bytes)}")
    if moving.left_s is not None:
        told.append(f"{human(moving.bytes_per_s)}/s {clock(moving.left_s)} left")
    return " ".join(told)


def _bar(share: float, width: int, plain: bool) -> Text:
    full, empty = ("#", "-") if plain else ("\u2501", "\u2500")
    done = round(share * width)
    return Text(full * done, "green").append(empty * (width - done), "dim")


def _sums(hosts: Iterable[HostLine], busy: int, passed_s: float) -> Text:
    listed = list(hosts)
    failed = sum(host.has_failed for host in listed)
    waiting = sum(not host.stage and not host.is_over for host in listed)
    counted = {"at work": busy, "waiting": waiting, "failed": failed}
    counted["finished"] = sum(host.is_over for host in listed) - failed
    told = ", ".join(f"{count} {word}" for word, count in counted.items() if count)
    return Text(f"{clock(passed_s)}  {len(listed)} hosts: {told}", "dim")


def clock(seconds: float) -> str:
    """A time as a clock shows it: 0:42, 12:05, 1:00:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _cut(line: Text, width: int) -> Text:
    line.truncate(width)
    line.no_wrap = True
    return line
