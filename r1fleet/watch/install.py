"""Operations of the watch. Each can be used alone in any deploy."""

from collections.abc import Generator

from pyinfra.api import FunctionCommand, operation

from r1fleet import paths
from r1fleet.hostfacts import Probe
from r1fleet.managed import write
from r1fleet.remote import step
from r1fleet.shell import assign
from r1fleet.watch.said import UNIT
from r1fleet.watch.wanted import TIMER, WatchWanted

Commands = Generator[FunctionCommand, None, None]
FILES = (paths.WATCH_TIMER, paths.WATCH_UNIT, paths.WATCH_CONF, paths.WATCH)

# A collector goes on to give out what lies in its folder: nothing stays in a former one.
_PREPARE = f"""
set -e
umask 022
mkdir -p {paths.WATCH_DIR}
chmod 755 {paths.WATCH_DIR}
[ -z "$MAKE" ] || mkdir -p "$FOLDER"
[ ! -r {paths.WATCH_CONF} ] || ( . {paths.WATCH_CONF}
  [ "$textfile_dir" = "$FOLDER" ] || rm -f "$textfile_dir/r1fleet.prom" )
"""
_START = f"systemctl daemon-reload && systemctl enable -q {TIMER} && systemctl restart {TIMER}\n"
REMOVE = f"""
systemctl disable -q --now {TIMER} 2>/dev/null
systemctl stop {UNIT} 2>/dev/null
[ ! -r {paths.WATCH_CONF} ] || ( . {paths.WATCH_CONF}; rm -f "$textfile_dir/r1fleet.prom" )
rm -rf {paths.WATCH_DIR}
rm -f {" ".join(FILES)} && systemctl daemon-reload
"""


@operation()
def install(probe: Probe, wanted: WatchWanted) -> Commands:
    """Install the timer that looks after the host, and start it.

    + probe: the host as it is
    + wanted: its files, from `watch.wanted`
    """
    differing = [file for file in wanted.files if file.differs(probe.files)]
    if differing:
        values = {"FOLDER": wanted.textfile_dir, "MAKE": "1" if wanted.is_asked_for else ""}
        yield step(
            "watch",
            "makes the folders of the watch",
            assign(values) + _PREPARE,
            "check watch_textfile_dir",
            quiet=True,
        )
    yield from write("watch", differing)
    timer = probe.unit(TIMER)
    running = timer.active == "active" and timer.enabled
    if differing or not running or timer.needs_reload or probe.unit(UNIT).needs_reload:
        yield step(
            "watch",
            "starts the watch",
            _START,
            f"systemctl status {TIMER} on the host tells more",
            change="watch started",
        )


@operation()
def remove(probe: Probe) -> Commands:
    """Take the watch away, with what it remembers and has written for the collector.

    + probe: the host as it is; nothing is asked where there is none
    """
    if probe.unit(TIMER).load != "not-found" or any(path in probe.files for path in FILES):
        yield step(
            "watch",
            "takes the watch away",
            REMOVE,
            "check /etc/systemd/system",
            change="watch removed",
        )
