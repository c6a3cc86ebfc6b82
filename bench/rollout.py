"""What a cold fleet costs the WAN, with the mirror and without: `python bench/rollout.py`.

Needs the lab of bench/rollout.yaml. Eight hosts fetch the engine and one of two models at once,
through a WAN of 100 Mbit/s; then the same from the source, each for itself. Exits 1 when a bound
is missed: WAN bytes at most 1.03 x what is unique, the pull stage at most 1.25 x (unique bytes /
WAN rate + all bytes / LAN rate). The LAN rate is measured: all hosts at once, from a warm mirror.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lab import paths
from lab.state import LabState

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
LOG = paths.lab_dir() / "services" / "nginx-access.log"
HOSTS = 8
MODELS = ("rollout-a:1", "rollout-b:1")
WAN_MBIT_PER_S = 100
BYTES_MOST = 1.03
TIME_MOST = 1.25

INVENTORY = """
import runpy
_hosts, _data = runpy.run_path({lab!r})["lab"]
_digests, _mirrored = {digests!r}, {mirrored!r}
_names = [name for name, _ in _hosts]
lab = (
    [
        (name, {{**data, "model_digests": _digests[place % len(_digests)]}})
        for place, (name, data) in enumerate(_hosts)
    ],
    {{**_data, "registry_url": {registry!r}}},
)
if _mirrored:
    mirror = _names[:1]
"""

# As on the first day: no engine, no model, an empty cache.
COLD = """
systemctl stop r1fleet-mirror 2>/dev/null
rm -rf /opt/ollama /var/lib/ollama/models/* /var/lib/ollama/models/.r1fleet-staging
rm -rf /var/lib/r1fleet-mirror/cache /var/lib/r1fleet/state.json
if [ -e /etc/systemd/system/r1fleet-mirror.service ]; then systemctl start r1fleet-mirror; fi
"""


@dataclass(frozen=True)
class Figures:
    wan_bytes: int
    wall_s: float


class Bench:
    def __init__(self, state: LabState, payload_mb: int, folder: Path) -> None:
        self.state, self.folder = state, folder
        self.models = [json.loads(lab("publish", name, "--mb", str(payload_mb))) for name in MODELS]
        archive = paths.lab_dir() / f"www/ollama/v{state.engine_version}"
        engine_bytes = (archive / "ollama-linux-amd64.tar.zst").stat().st_size
        self.unique_bytes = engine_bytes + sum(model["size_bytes"] for model in self.models)
        shares = (self.models[place % len(self.models)] for place in range(len(state.hosts)))
        self.all_bytes = sum(engine_bytes + model["size_bytes"] for model in shares)

    def cold(self, *, mirrored: bool) -> Figures:
        """One pull stage of the whole fleet from nothing."""
        inventory = self.folder / "rollout.py"
        inventory.write_text(
            INVENTORY.format(
                lab=str(ROOT / "inventories" / "lab.py"),
                digests=[
                    {name: model["digest"]} for name, model in zip(MODELS, self.models, strict=True)
                ],
                mirrored=mirrored,
                registry=paths.public_registry_url(),
            )
        )
        self.deploy(inventory, "ready")
        self.everywhere(COLD)
        times = self.folder / "times"
        times.unlink(missing_ok=True)
        lab("wan", str(WAN_MBIT_PER_S))
        try:
            begin = LOG.stat().st_size
            self.deploy(inventory, "pull")
        finally:
            lab("wan", "off")
        spans = [line.split()[1:] for line in times.read_text().splitlines()]
        if len(spans) != len(self.state.hosts):
            raise SystemExit(f"only {len(spans)} hosts came to the end")
        wall_s = max(float(end) for _, end in spans) - min(float(start) for start, _ in spans)
        return Figures(sum(sent(begin)), wall_s)

    def lan_bytes_per_s(self) -> float:
        """All hosts at once read both models from the mirror, which has them."""
        first = next(iter(self.state.hosts.values()))
        url = f"http://{first.address}:5080/v2/library"
        layers = [
            f"{url}/{name.partition(':')[0]}/blobs/{layer['digest']}"
            for name in MODELS
            for layer in self.manifest(name)["layers"]
        ]
        script = "; ".join(f"curl -fsS -o /dev/null {place}" for place in layers)
        began = time.monotonic()
        self.everywhere(script)
        passed_s = time.monotonic() - began
        each = sum(model["size_bytes"] for model in self.models)
        return len(self.state.hosts) * each / passed_s

    def manifest(self, name: str) -> dict[str, list[dict[str, str]]]:
        model, _, tag = name.partition(":")
        path = paths.overlay_dir() / "v2/library" / model / "manifests" / tag
        found: dict[str, list[dict[str, str]]] = json.loads(path.read_text())
        return found

    def deploy(self, inventory: Path, what: str) -> None:
        names = {"R1_BENCH": what, "R1_BENCH_TIMES": str(self.folder / "times")}
        done = subprocess.run(
            [BIN / "pyinfra", inventory, "bench/rollout_deploy.py", "-y"],
            cwd=ROOT,
            env=os.environ | names,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"the run failed:\n{done.stdout}{done.stderr}")

    def everywhere(self, script: str) -> None:
        with ThreadPoolExecutor(len(self.state.hosts)) as pool:
            for _ in pool.map(self.on, self.state.hosts, [script] * len(self.state.hosts)):
                pass

    def on(self, host: str, script: str) -> None:
        subprocess.run(
            ["ssh", "-F", "none", "-i", self.state.key, "-o", "IdentitiesOnly=yes"]
            + ["-o", f"UserKnownHostsFile={self.state.known_hosts}", "-o", "LogLevel=ERROR"]
            + [f"root@{self.state.hosts[host].address}", script],
            check=True,
        )


def sent(begin: int) -> Iterator[int]:
    """Bytes of each answer that models and engine had from the lab's servers since then."""
    with LOG.open() as stream:
        stream.seek(begin)
        for line in stream:
            _, request, answer, *_ = line.split('"')
            if request.split()[1].startswith(("/v2/", "/ollama/")):
                yield int(answer.split()[1])


def lab(*words: str) -> str:
    done = subprocess.run(
        [BIN / "r1fleet", "lab", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def report(bench: Bench, mirrored: Figures, alone: Figures, lan: float) -> bool:
    """Print the figures beside their bounds; whether they were kept."""
    wan = WAN_MBIT_PER_S * 1e6 / 8
    ideal_s = bench.unique_bytes / wan + bench.all_bytes / lan
    share = mirrored.wan_bytes / bench.unique_bytes
    ratio = mirrored.wall_s / ideal_s
    print(
        f"{len(bench.state.hosts)} hosts, {bench.unique_bytes / 1e6:.0f} MB unique, "
        f"{bench.all_bytes / 1e6:.0f} MB in all, WAN {WAN_MBIT_PER_S} Mbit/s, "
        f"LAN {lan * 8 / 1e6:.0f} Mbit/s (measured)"
    )
    print(
        f"with the mirror:    WAN {mirrored.wan_bytes / 1e6:.1f} MB, {share:.4f} x unique "
        f"(at most {BYTES_MOST}); pull stage {mirrored.wall_s:.1f} s, {ratio:.2f} x ideal "
        f"{ideal_s:.1f} s (at most {TIME_MOST})"
    )
    print(
        f"without the mirror: WAN {alone.wan_bytes / 1e6:.1f} MB, "
        f"{alone.wan_bytes / bench.unique_bytes:.4f} x unique; pull stage {alone.wall_s:.1f} s"
    )
    return share <= BYTES_MOST and ratio <= TIME_MOST


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--payload-mb", type=int, default=150, help="of each of the two models")
    options = parser.parse_args()
    state = LabState.load()
    if state is None or len(state.hosts) != HOSTS:
        hint = "r1fleet lab up --file bench/rollout.yaml"
        print(f"the lab of this bench is not running; start it with: {hint}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(state, options.payload_mb, Path(folder))
        try:
            mirrored = bench.cold(mirrored=True)
            lan = bench.lan_bytes_per_s()
            alone = bench.cold(mirrored=False)
        finally:
            lab("publish")
    return 0 if report(bench, mirrored, alone, lan) else 1


if __name__ == "__main__":
    sys.exit(main())
