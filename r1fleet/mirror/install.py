"""Operation of the mirror stage: nginx as an instance of its own, with its own files and unit."""

from collections.abc import Generator

from pyinfra.api import FunctionCommand, operation

from r1fleet import lastwords, paths
from r1fleet.brought import noting
from r1fleet.hostfacts import Probe
from r1fleet.longstep import long_step
from r1fleet.managed import write
from r1fleet.mirror.plan import ABOUT, CERTIFICATES, USER, MirrorWanted
from r1fleet.remote import fail, step
from r1fleet.shell import assign

Commands = Generator[FunctionCommand, None, None]
UNIT = "r1fleet-mirror.service"

# The package brings a site on port 80, which nobody here has asked for: it stays switched off,
# unless nginx was in use before.
_PACKAGE = """
set -e
export DEBIAN_FRONTEND=noninteractive
had=
! systemctl cat nginx.service >/dev/null 2>&1 || had=yes
if [ -z "$had" ]; then
  trap 'systemctl -q unmask --runtime nginx.service' EXIT  # also where apt fails
  systemctl -q mask --runtime nginx.service
fi
apt-get -qq -o DPkg::Lock::Timeout=600 update
apt-get -qq -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 install -y --no-install-recommends \
  nginx ca-certificates curl
if [ -z "$had" ]; then
  systemctl -q unmask --runtime nginx.service
  systemctl -q disable nginx.service
fi
"""

_START = """
why() { echo "$1" >&2; exit 1; }
[ -x /usr/sbin/nginx ] || why "there is no /usr/sbin/nginx"
/usr/sbin/nginx -V 2>&1 | grep -q http_slice_module ||
  why "this nginx was built without its slice module"
[ -e "$CERTIFICATES" ] || why "there is no $CERTIFICATES (package ca-certificates)"
getent passwd "$ACCOUNT" >/dev/null ||
  useradd --system --user-group --no-create-home --home-dir /nonexistent \
    --shell /usr/sbin/nologin "$ACCOUNT" || exit 1
systemctl daemon-reload
systemctl enable -q "$UNIT"
last() { last_words "$UNIT" 'emerg\\|cannot' SYSLOG_IDENTIFIER=r1fleet-mirror |
  sed 's/.*emerg\\] *//'; }
since_now
systemctl restart "$UNIT" || why "$(last)"
i=0
until curl -fsS --noproxy '*' -m 5 -o /dev/null "$URL" 2>/dev/null; do
  i=$((i + 1))
  [ $i -lt 20 ] || why "no answer at $URL: $(last)"
  sleep 0.5
done
rm -f "$MARK"
"""


@operation()
def install(probe: Probe, wanted: MirrorWanted) -> Commands:
    """Make the host a mirror: nginx, its files, its unit; restarted only after a change.

    + probe: the host as it is
    + wanted: from `mirror.plan`
    """
    if "nginx" not in probe.tools:
        if "apt-get" not in probe.tools:
            yield fail("mirror", "nginx is missing", "install it, with its slice module")
        yield long_step(
            "mirror",
            "installs nginx",
            "r1fleet-mirror-package",
            noting("tool", _PACKAGE),
            "check the host's apt sources, then run again",
            change="package nginx",
        )
    differing = [file for file in wanted.files if file.differs(probe.files)]
    if differing:
        folder = paths.MIRROR_RESTART_MARK.rpartition("/")[0]
        yield step(
            "mirror",
            "notes that a restart must follow",
            f"install -d -m 755 {folder} && touch {paths.MIRROR_RESTART_MARK}",
            "check /run",
            quiet=True,
        )
    yield from write("mirror", differing)
    unit = probe.unit(UNIT)
    running = unit.active == "active" and unit.enabled and not unit.needs_reload
    if differing or probe.mirror_restart_pending or not running:
        verb = "restarts" if unit.active == "active" else "starts"
        names = {
            "ACCOUNT": USER,
            "UNIT": UNIT,
            "CERTIFICATES": CERTIFICATES,
            "URL": wanted.own_url + ABOUT,
            "MARK": paths.MIRROR_RESTART_MARK,
        }
        yield step(
            "mirror",
            f"{verb} the mirror",
            assign(names) + lastwords.script() + _START,
            f"journalctl -u {UNIT} on the host tells more",
            change=f"mirror {verb.rstrip('s')}ed",
            timeout_s=180,
        )
