"""The transient unit that fetches a model on a host: what is asked of it and what it says."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from urllib.parse import urlsplit

from pyinfra.api import Host

from r1fleet import paths
from r1fleet.model.manifest import REGISTRY, STAGING, ModelManifest, ModelWanted, human
from r1fleet.remote import HostFailure, Result, run
from r1fleet.shell import assign, write_file
from r1fleet.templates import env_quote

FETCH = f"{paths.LIB}/fetch"
RUN_DIR = "/run/r1fleet-pull"

_FREE = """
d=$R1_MODELS
while [ ! -d "$d" ]; do d=$(dirname "$d"); done
df -Pk "$d" | awk 'END { print "disk", $2, $4 }'
"""

# One command: the registry's manifest, the disk, what is staged, what is going on.
_LOOK = f"""
echo "unit $(systemctl is-active {paths.PULL_UNIT})"
cat {RUN_DIR}/status 2>/dev/null
stat -c "staged %b %s %n" "$R1_STAGED"/$R1_PATTERN 2>/dev/null
{_FREE}
install -d -m 755 {paths.PULL_DIR}
new={paths.PULL_DIR}/manifest
rm -f "$new"
code=$(curl -sSL --proto '=http,https' --connect-timeout 10 --max-time 60 --max-filesize 1000000 \
  --retry 3 --retry-delay 2 --retry-connrefused -w '%{{http_code}}' -o "$new" \
  -H 'Accept: application/vnd.docker.distribution.manifest.v2+json' "$R1_URL")
echo "http $code"
[ ! -f "$new" ] || echo "manifest $(base64 -w0 "$new")"
"""

# Not as root: it writes where the service user could plant links.
_START = f"""
set -e
install -d -m 755 "$R1_JOB"
for other in {paths.PULL_DIR}/*/; do [ "$other" = "$R1_JOB/" ] || rm -rf "$other"; done
[ ! -f {paths.PULL_DIR}/manifest ] || mv -f {paths.PULL_DIR}/manifest "$R1_JOB/manifest"
[ ! -f {paths.PULL_DIR}/proxy ] || mv -f {paths.PULL_DIR}/proxy "$R1_JOB/proxy"
printf '%s' "$R1_LINES" >"$R1_JOB/job"
chmod 644 "$R1_JOB/job" "$R1_JOB/manifest"
rm -f {RUN_DIR}/status
systemd-run --quiet --collect --unit={paths.PULL_UNIT} --description="fetches $R1_NAME" \\
  --uid=ollama --gid=ollama -p RuntimeDirectory=r1fleet-pull -p RuntimeDirectoryPreserve=yes \\
  -p EnvironmentFile="-$R1_JOB/proxy" {FETCH} "$R1_JOB" $R1_HOW
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
    """What a host's scripts print: lines "key value"; the registry's answer in `begin` only."""

    running: bool
    state: str
    reason: str
    digest: str
    total_bytes: int
    done_bytes: int
    disk_size_bytes: int
    disk_free_bytes: int
    staged: Mapping[str, int]  # hex -> bytes on the disk
    http: str
    manifest: bytes
    error: str


def read(result: Result) -> Seen:
    """Read the lines of a poll or of a look at the registry."""
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
        total_bytes=int(facts.get("total", 0)),
        done_bytes=int(facts.get("done", 0)),
        disk_size_bytes=int(size_kib) * 1024,
        disk_free_bytes=int(free_kib) * 1024,
        staged=staged,
        http=facts.get("http", "000"),
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


def job_folder(manifest: ModelManifest) -> str:
    """Where the job lies on the host."""
    return f"{paths.PULL_DIR}/{manifest.digest.removeprefix('sha256:')[:12]}"


def job_lines(want: ModelWanted, manifest: ModelManifest) -> str:
    """The job as fetch.sh reads it: only values that ModelWanted and the manifest have checked."""
    lines = [
        f"models {want.models_dir}",
        f"url {want.repository_url}",
        f"path {want.manifest_path}",
        f"digest {manifest.digest}",
        f"limit {want.bytes_per_s}",
        f"name {want.name}",
        f"source {_name_at_source(want)}",
        f"insecure {str(want.registry_url.startswith('http://')).lower()}",
        f"engine {want.engine_url.rstrip('/')}",
        *(f"blob {blob.hex} {blob.size_bytes}" for blob in manifest.blobs),
    ]
    return "".join(f"{line}\n" for line in lines)


def look(host: Host, want: ModelWanted) -> Seen:
    """Ask the registry for the manifest, from the host, and see what is going on there."""
    api = want.via == "api"
    values = {
        "R1_MODELS": want.models_dir,
        "R1_STAGED": f"{want.models_dir}/{'blobs' if api else STAGING}",
        "R1_PATTERN": "*-partial" if api else "*",
        "R1_URL": f"{want.repository_url}/manifests/{want.tag}",
    }
    lines = [f"{name}={env_quote(value)}\n" for name, value in want.proxies.items()]
    environment = "".join(["# for downloads\n", *lines])  # nothing at all would not be sent
    # A proxy may carry a password: it goes by a file that only root reads, never by a command line.
    place = write_file(f"{paths.PULL_DIR}/proxy", environment, mode="600")
    script = f"{assign(values)}({place}) || exit 1\nset -a; . {paths.PULL_DIR}/proxy\n{_LOOK}"
    return read(run(host, script, stdin=environment, timeout_s=300))


def launch(host: Host, want: ModelWanted, manifest: ModelManifest) -> None:
    """Put the job and the script in place and start the unit."""
    values = {
        "R1_JOB": job_folder(manifest),
        "R1_LINES": job_lines(want, manifest),
        "R1_NAME": want.name,
        "R1_HOW": "api" if want.via == "api" else "",
    }
    script = (resources.files("r1fleet.model") / "fetch.sh").read_text(encoding="ascii")
    place = write_file(FETCH, script, mode="755")
    started = run(host, f"{assign(values)}({place}) || exit 1\n{_START}", stdin=script)
    if not started.ok:
        raise HostFailure(f"fetching {want.name}", started.reason, "check systemd on the host")


def poll(host: Host, manifest: ModelManifest) -> Seen:
    """How far the unit is; waits up to two seconds for its end."""
    return read(run(host, assign({"R1_JOB": job_folder(manifest)}) + _POLL))


def stop(host: Host) -> None:
    """End the unit; what it has fetched stays."""
    run(host, f"systemctl stop {paths.PULL_UNIT}")


def _name_at_source(want: ModelWanted) -> str:
    """The name that Ollama's own pull takes; it knows no other way to name a registry."""
    registry = urlsplit(want.registry_url).netloc
    return want.name if registry == REGISTRY else f"{registry}/{want.path}:{want.tag}"
