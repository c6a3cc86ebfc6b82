"""The transient unit that fetches a model on a host: what is asked of it and what it says."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass

from pyinfra.api import Host

from r1fleet import paths
from r1fleet.model import job, made
from r1fleet.model.manifest import STAGING, ModelManifest, ModelWanted, human
from r1fleet.remote import HostFailure, Result, run
from r1fleet.shell import assign, write_file

FETCH = f"{paths.LIB}/fetch"
RUN_DIR = "/run/r1fleet-pull"
ASK_DIR = "/run/r1fleet-pull-ask"  # in memory: asking the registry writes nothing on the disk

# One command: what is going on, the disk, what is staged, the manifest that is there.
_LOOK = f"""
echo "unit $(systemctl is-active {paths.PULL_UNIT})"
cat {RUN_DIR}/status 2>/dev/null
stat -c "staged %b %s %n" "$R1_STAGED"/$R1_PATTERN \\
  ${{R1_SENT:+"$R1_SENT"/$R1_SENT_NAMES}} 2>/dev/null
d=$R1_MODELS
while [ ! -d "$d" ]; do d=$(dirname "$d"); done
df -Pk "$d" | awk 'END {{ print "disk", $2, $4 }}'
[ -z "$R1_HELD" ] || echo "manifest $(base64 -w0 "$R1_HELD")"
"""

# The login goes to curl by its standard input; R1_AUTH and proxies come from a file.
_ASK = """
get() {
  if [ -n "${R1_AUTH-}" ]; then printf 'header = "Authorization: %s"\\n' "$R1_AUTH"; fi |
    curl -K - -sSL --proto '=http,https' --connect-timeout 10 --max-time 60 \\
      --max-filesize 1000000 --retry 3 --retry-delay 2 --retry-connrefused "$@"
}
manifest() {
  rm -f "$new"
  get -w '%{http_code}' -o "$new" \\
    -H 'Accept: application/vnd.docker.distribution.manifest.v2+json' "$R1_URL/manifests/$1"
}
field() { printf '%s\\n' "$challenge" | sed -n "s/.*$1=\\"\\([^\\"]*\\)\\".*/\\1/p"; }
# As in fetch.sh: a token for the login, of the registry itself and of no other server.
token() {
  challenge=$(get -D - -o /dev/null "$R1_URL/manifests/$R1_TAG" | tr -d '\\r' |
    sed -n 's/^[Ww][Ww][Ww]-[Aa]uthenticate: *[Bb]earer *//p')
  realm=$(field realm) rest=${R1_URL#*://}
  case $realm in "${R1_URL%%://*}://${rest%%/*}/"*) ;; *) return 0 ;; esac
  found=$(get -G --data-urlencode "service=$(field service)" \\
    --data-urlencode "scope=$(field scope)" "$realm" |
    sed -n 's/.*"token" *: *"\\([A-Za-z0-9._~+\\/=-]*\\)".*/\\1/p')
  [ -z "$found" ] || R1_AUTH="Bearer $found"
}
code=$(manifest "$R1_TAG")
if [ "$code" = 401 ] && [ -n "${R1_AUTH-}" ]; then token; code=$(manifest "$R1_TAG"); fi
case $code in 2*)
  sum=$(sha256sum <"$new")
  # The tag has moved; the registry may still have what is pinned.
  if [ -n "$R1_DIGEST" ] && [ "sha256:${sum%% *}" != "$R1_DIGEST" ]; then
    mv "$new" "$new.tag"
    case $(manifest "$R1_DIGEST" 2>/dev/null) in
      2*) echo "moved sha256:${sum%% *}" ;;
      *) mv "$new.tag" "$new" ;;
    esac
  fi ;;
esac
echo "http $code"
[ ! -f "$new" ] || echo "manifest $(base64 -w0 "$new")"
rm -rf "${new%/*}"
"""

# The size of a file that a model is made of.
_MEASURE = """
case $R1_FROM in
  /*) [ -f "$R1_FROM" ] && echo "size $(stat -Lc %s "$R1_FROM")" ||
    echo "there is no file $R1_FROM" >&2 ;;
  *) curl -sSIL --proto '=http,https' --connect-timeout 10 --max-time 60 --fail "$R1_FROM" |
    tr -d '\\r' | sed -n 's/^[Cc]ontent-[Ll]ength: */size /p' ;;
esac
"""

# Not as root: it writes where the service user could plant links. /home and /tmp stay to be read,
# because a model may be made of a file that lies there.
_START = f"""
set -e
printf '%s' "$R1_MANIFEST" | base64 -d >"$R1_JOB/manifest"
printf '%s' "$R1_LINES" >"$R1_JOB/job"
chmod 644 "$R1_JOB/job" "$R1_JOB/manifest"
if [ -n "$R1_CONFIG" ]; then
  printf '%s' "$R1_CONFIG" >"$R1_JOB/sent-$R1_CONFIG_HEX"
  chmod 644 "$R1_JOB/sent-$R1_CONFIG_HEX"
fi
rm -f {RUN_DIR}/status
systemd-run --quiet --collect --unit={paths.PULL_UNIT} --description="fetches $R1_NAME" \\
  --uid=ollama --gid=ollama -p RuntimeDirectory=r1fleet-pull -p RuntimeDirectoryPreserve=yes \\
  -p EnvironmentFile="-$R1_JOB/env" \\
  -p ProtectSystem=strict -p ReadWritePaths="$R1_MODELS" -p PrivateDevices=yes \\
  -p NoNewPrivileges=yes -p CapabilityBoundingSet= -p RestrictSUIDSGID=yes \\
  -p ProtectKernelTunables=yes -p ProtectKernelModules=yes -p ProtectControlGroups=yes \\
  -p RestrictNamespaces=yes -p LockPersonality=yes -p SystemCallArchitectures=native \\
  {FETCH} "$R1_JOB" $R1_HOW
"""

_DROP_OTHERS = f"""
for other in {paths.PULL_DIR}/*/; do [ "$other" = "$R1_JOB/" ] || rm -rf "$other"; done
"""

# Waits up to two seconds, so that the end is seen soon with few commands. The unit's state is
# taken before its status: what an ended unit wrote is then its last word.
_POLL = f"""
i=0
while [ $i -lt 8 ] && systemctl is-active -q {paths.PULL_UNIT}; do sleep 0.25; i=$((i + 1)); done
echo "unit $(systemctl is-active {paths.PULL_UNIT})"
sh {FETCH} "$R1_JOB" status
"""


@dataclass(frozen=True)
class Seen:
    """What a host's scripts print: lines "key value". Each script fills a part of it.

    + digest, models: of the fetch that goes on or was the last
    + placed: files that a finished fetch has put in place; 0 when all was there
    + moved: the digest that the tag has now, where the pinned one was had all the same
    """

    running: bool
    state: str
    reason: str
    digest: str
    models: str
    total_bytes: int
    done_bytes: int
    placed: int
    disk_size_bytes: int
    disk_free_bytes: int
    staged: Mapping[str, int]  # hex -> bytes on the disk
    http: str
    moved: str
    size_bytes: int
    manifest: bytes
    error: str


def read(result: Result) -> Seen:
    """Read the lines of a script."""
    facts: dict[str, str] = {}
    staged = {}
    for line in result.stdout.splitlines():
        key, _, value = line.partition(" ")
        if key == "staged":
            blocks, length, path = value.split(" ", 2)
            name = path.rpartition("/")[2].removeprefix("sha256-").removesuffix("-partial")
            staged[name] = min(int(blocks) * 512, int(length))  # as in fetch.sh
        else:
            facts[key] = value
    size_kib, _, free_kib = facts.get("disk", "0 0").partition(" ")
    return Seen(
        running=facts.get("unit") in ("active", "activating", "deactivating"),
        state=facts.get("state", ""),
        reason=facts.get("reason", "") or "no reason was left",
        digest=facts.get("digest", ""),
        models=facts.get("models", ""),
        total_bytes=int(facts.get("total", 0)),
        done_bytes=int(facts.get("done", 0)),
        placed=int(facts.get("placed", 0)),
        disk_size_bytes=int(size_kib) * 1024,
        disk_free_bytes=int(free_kib) * 1024,
        staged=staged,
        http=facts.get("http", "000"),
        moved=facts.get("moved", ""),
        size_bytes=int(facts.get("size", 0)),
        manifest=base64.b64decode(facts.get("manifest", "")),
        error=result.reason,
    )


def progress(name: str, status: Seen, bytes_per_s: float) -> str:
    """A line for people: how far, how fast, how long still."""
    if status.state in ("checking", "installing"):
        return f"{name}: {status.state} what came, {human(status.total_bytes)} in all"
    share = 100 * status.done_bytes / status.total_bytes if status.total_bytes else 0
    text = f"{name}: {share:.0f} %, {human(status.done_bytes)} of {human(status.total_bytes)}"
    if bytes_per_s <= 0:
        return text
    left_s = (status.total_bytes - status.done_bytes) / bytes_per_s
    return f"{text}, {human(bytes_per_s)}/s, {left_s // 60:.0f} min {left_s % 60:.0f} s left"


def look(host: Host, want: ModelWanted, *, held: bool) -> Seen:
    """See what is going on there; with `held`, the name's manifest as it is on the host, too."""
    api = want.by_engine
    values = {
        "R1_MODELS": want.models_dir,
        "R1_STAGED": f"{want.models_dir}/{'blobs' if api else STAGING}",
        "R1_PATTERN": "*-partial" if api else "*",
        "R1_SENT": f"{want.models_dir}/{job.UPLOADS}" if want.source or want.bundle else "",
        "R1_SENT_NAMES": want.source.sha256 if want.source else "*",
        "R1_HELD": f"{want.models_dir}/manifests/{want.manifest_path}" if held else "",
    }
    return read(run(host, assign(values) + _LOOK))


def ask(host: Host, want: ModelWanted) -> Seen:
    """Ask the registry for the manifest, from the host: the tag's, or the pinned one."""
    values = {
        "R1_URL": want.repository_url,
        "R1_TAG": want.tag,
        "R1_DIGEST": want.digest or "",
        "new": f"{ASK_DIR}/manifest",
    }
    environment = job.environment(want)
    place = write_file(f"{ASK_DIR}/env", environment, mode="600")
    script = f"{assign(values)}({place}) || exit 1\nset -a; . {ASK_DIR}/env; set +a\n{_ASK}"
    return read(run(host, script, stdin=environment, timeout_s=300))


def measure(host: Host, want: ModelWanted) -> Seen:
    """The size of the file that a model is made of."""
    assert want.source
    environment = job.environment(want)
    place = write_file(f"{ASK_DIR}/env", environment, mode="600")
    begin = f"({place}) || exit 1\nset -a; . {ASK_DIR}/env; set +a\nrm -rf {ASK_DIR}\n"
    script = assign({"R1_FROM": want.source.place}) + begin + _MEASURE
    return read(run(host, script, stdin=environment))


def launch(
    host: Host, want: ModelWanted, manifest: ModelManifest, raw: bytes, *, deep: bool
) -> None:
    """Put the job and the script in place and start the unit; `raw` are the manifest's bytes."""
    folder = job.folder(manifest)
    # Its own command: its content is a secret, so it comes by standard input.
    environment = job.environment(want)
    place = write_file(f"{folder}/env", environment, mode="600")
    sent = run(host, f"{assign({'R1_JOB': folder})}{_DROP_OTHERS}{place}", stdin=environment)
    values = {
        "R1_JOB": folder,
        "R1_LINES": job.lines(want, manifest, deep=deep),
        "R1_MANIFEST": base64.b64encode(raw).decode(),
        "R1_NAME": want.name,
        "R1_MODELS": want.models_dir,
        "R1_CONFIG": made.config(want.source) if want.source else "",
        "R1_CONFIG_HEX": made.config_hex(want.source) if want.source else "",
        "R1_HOW": "api" if want.by_engine else "",
    }
    place = write_file(FETCH, job.script(), mode="755")
    started = run(host, f"{assign(values)}({place}) || exit 1\n{_START}", stdin=job.script())
    for result in (sent, started):
        if not result.ok:
            raise HostFailure(f"fetching {want.name}", result.reason, "check systemd on the host")


def poll(host: Host, manifest: ModelManifest) -> Seen:
    """How far the unit is; waits up to two seconds for its end."""
    return read(run(host, assign({"R1_JOB": job.folder(manifest)}) + _POLL))


def forget_login(host: Host, manifest: ModelManifest) -> None:
    """Take away the file with what only the downloader had to know."""
    run(host, assign({"R1_JOB": job.folder(manifest)}) + 'rm -f "$R1_JOB/env"')


def stop(host: Host) -> None:
    """End the unit; what it has fetched stays."""
    run(host, f"systemctl stop {paths.PULL_UNIT}")
