"""The watch's real script in a folder that stands for a host: what it would ask is answered by
stand-ins first in PATH, with the facts of files; what it would do to the host is only noted."""

import json
import os
import re
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from r1fleet.watch.wanted import script

MODEL = "deepseek-r1:14b"
SIZE = 9_700_000_000
NOW = 1_800_000_000

# Each reads one file of the root; the shell's own words only, because there are thousands of runs.
TOOLS = {
    "date": 'read -r t <"$ROOT/now"; echo "$t"',
    "sleep": '[ ! -e "$ROOT/stat.later" ] || mv "$ROOT/stat.later" "$ROOT/proc/7/stat"',
    "dmesg": 'while read -r l; do echo "$l"; done <"$ROOT/dmesg"',
    "df": 'echo head; read -r f <"$ROOT/free"; echo "/dev/sda1 1000000000 1 $f 1% /"',
    "ss": '[ ! -e "$ROOT/no-ss" ] || exit 127\n'
    'while read -r l; do echo "$l"; done <"$ROOT/connections"',
    "nvidia-smi": 'read -r rc <"$ROOT/smi.rc"; while read -r l; do echo "$l"; done <"$ROOT/smi"\n'
    'exit "$rc"',
    "systemctl": 'case $1 in show) while read -r l; do echo "$l"; done <"$ROOT/units" ;;\n'
    '*) echo "$*" >>"$ROOT/deeds"; [ ! -e "$ROOT/ps.after" ] || mv "$ROOT/ps.after" "$ROOT/ps" ;;'
    "esac",
    "systemd-run": 'for w; do printf "%s\\n" "$w"; done >>"$ROOT/hook"',
    "curl": "for at; do :; done\ncase $at in\n"
    '*/slots) read -r l <"$ROOT/slots"; echo "$l" ;;\n'
    '*/api/generate) echo asked >>"$ROOT/asked"; read -r l <"$ROOT/said"; echo "$l"\n'
    'echo "${l:+200} 0.25" ;;\n'
    '*) [ -e "$ROOT/ps" ] || exit 7; echo \'{"version":"0.32.15"}\'\n'
    'read -r l <"$ROOT/ps"; echo "$l" ;;\n'
    "esac",
}
MOVED = re.compile(
    r"/(run/r1fleet|var/lib/r1fleet|etc/r1fleet|proc/|sys/module|dev/nvidia-uvm|dev/kfd|usr/lib)"
)
CGROUP = "1:name=systemd:/system.slice/ollama.service\n0::/system.slice/ollama.service\n"
SOUND = "GPU 0: Tesla T4 (UUID: GPU-1)\n"


def ps(*rows: tuple[str, int]) -> str:
    """What /api/ps answers: (name, bytes in VRAM)."""
    models = [
        {
            "name": name,
            "model": name,
            "size": SIZE,
            "digest": "c7" * 32,
            "details": {"parent_model": "", "format": "gguf", "families": ["qwen2"]},
            "expires_at": "2318-11-26T20:36:29.1Z",
            "size_vram": vram,
            "context_length": 29696,
        }
        for name, vram in rows
    ]
    return json.dumps({"models": models}, separators=(",", ":"))


def units(engine: str = "active", preload: str = "active", **more: str) -> str:
    """What systemctl shows; `more` are units of r1fleet by the rest of their names."""
    rows = {"ollama": engine, "r1fleet-preload": preload, "r1fleet-watch": "activating"}
    rows |= {f"r1fleet-{name}": state for name, state in more.items()}
    return "\n".join(f"ActiveState={state}\nId={name}.service\n" for name, state in rows.items())


@dataclass
class Box:
    """A host. `facts` are files below the root that are there for a run."""

    root: Path
    now: int = NOW
    settings: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        text = MOVED.sub(lambda found: f"{self.root}{found[0]}", script())
        self.write("watch", text)
        for name, body in TOOLS.items():
            self.write(f"bin/{name}", f"#!/bin/sh\n{body}\n")
            (self.root / "bin" / name).chmod(0o755)
        body = {"model": MODEL, "keep_alive": -1, "stream": False}
        self.write("etc/r1fleet/preload.json", json.dumps(body) + "\n")
        self.write("proc/sys/kernel/random/boot_id", "b1\n")
        self.write("proc/sys/kernel/hostname", "gpu1\n")
        self.write("proc/7/cgroup", CGROUP)
        self.write("proc/7/cmdline", "/opt/ollama/llama-server\0--port\0004711\0")
        self.write("proc/8/cgroup", "0::/user.slice\n")
        self.write("usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.95.05", "")
        self.write("dev/nvidia-uvm", "")
        for folder in ("var/lib/r1fleet/watch", "run/r1fleet", "collector"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        self.healthy()

    def healthy(self) -> None:
        """A T4 that serves its model and has nothing to do."""
        for name in ("deeds", "asked", "hook", "no-ss", "ps.after", "stat.later"):
            self.gone(name)
        for name in ("lease.json", "maintenance", "draining"):
            self.gone(f"var/lib/r1fleet/{name}")
        for name in ("draining", "refusing", "restart", "lease.lock"):
            self.gone(f"run/r1fleet/{name}")
        self.write("units", units())
        self.write("ps", ps((MODEL, SIZE)))
        self.write("slots", '[{"id":0,"is_processing":false}]\n')
        self.write("said", '{"model":"x","done":true}\n')
        self.write("connections", "")
        self.write("sys/module/nvidia/version", "580.95.05\n")
        self.write("smi", SOUND)
        self.write("smi.rc", "0\n")
        self.write("dmesg", "")
        self.write("free", "900000000\n")
        self.ticks(100)

    def ticks(self, used: int, path: str = "proc/7/stat") -> None:
        """The processor time of llama-server."""
        self.write(path, f"7 (llama-server) S 1 7 7 0 -1 4194560 9 0 0 0 {used} 0 0 0 20 0\n")

    def write(self, path: str, text: str) -> None:
        target = self.root / path
        if not target.parent.is_dir():
            target.parent.mkdir(parents=True)
        target.write_text(text)

    def gone(self, path: str) -> None:
        (self.root / path).unlink(missing_ok=True)

    def read(self, path: str) -> str:
        found = self.root / path
        return found.read_text() if found.exists() else ""

    def forget(self) -> None:
        """As if the watch had never looked."""
        self.gone("var/lib/r1fleet/watch/state")

    def remember(self, **values: object) -> None:
        lines = "".join(f"{key}={value}\n" for key, value in values.items())
        self.write("var/lib/r1fleet/watch/state", lines)

    @property
    def state(self) -> dict[str, str]:
        lines = self.read("var/lib/r1fleet/watch/state").splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def repairs(self) -> int:
        """Restarts of the engine since the last `healthy`."""
        return self.read("deeds").count("--no-block restart ollama.service")

    def look(self, after_s: int = 30) -> list[str]:
        """One run of the timer, `after_s` after the last; its lines in the journal."""
        self.now += after_s
        clock = datetime.fromtimestamp(self.now, UTC).strftime("%Y%m%d%H%M%S")
        self.write("now", f"{self.now} {clock}\n")
        conf = {
            **{"url": "http://127.0.0.1:11434", "port": 11434, "models_dir": "/models"},
            **{
                "aliases": "deepseek-r1:fleet",
                "extras": "all-minilm:latest",
                "placement": "gpu",
                "gpu_kind": "nvidia",
                "gpus": 1,
            },
            **{"for_ever": 1, "ask_every_s": 0, "disk_min_mib": 5120, "repair_every_s": 600},
            **{"repairs_per_day": 3, "load_limit_s": 420, "hook": ""},
            "textfile_dir": self.root / "collector",
            **self.settings,
        }
        self.write("conf", "".join(f"{key}='{value}'\n" for key, value in conf.items()))
        done = subprocess.run(
            ["dash", self.root / "watch", self.root / "conf"],
            env={"PATH": f"{self.root / 'bin'}:{os.environ['PATH']}", "ROOT": str(self.root)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout.splitlines()
