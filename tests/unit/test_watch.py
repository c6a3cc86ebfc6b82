"""The watch from look to look: whom it tells and how often, what it counts, what it writes."""

import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from r1fleet.watch.wanted import script
from tests.unit.test_watch_states import ACTS, HOLDS, WAITING
from tests.unit.watchbox import MODEL, SIZE, SOUND, Box, ps, units


def on_the_cpu(box: Box) -> None:
    box.write("ps", ps((MODEL, 0)))
    box.write("ps.after", ps((MODEL, SIZE)))


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def lost(box: Box) -> None:
    box.write("smi", "No devices were found\n")
    box.write("smi.rc", "6\n")


def test_a_gpu_that_goes_and_comes_back_is_told_twice_and_mended_once(box: Box) -> None:
    assert box.look() == [f"<5>well: {MODEL} is served as planned"]
    assert box.look() == []
    lost(box)
    on_the_cpu(box)
    (line,) = box.look()
    assert line == f"<4>failing: 0 of 1 GPUs are listed; {MODEL} is on the CPU"
    assert [box.look() for _ in range(5)] == [[]] * 5
    assert box.repairs == 0
    box.write("smi", SOUND)
    box.write("smi.rc", "0\n")
    begun, done = box.look()
    assert begun.startswith(f"<5>repairs: {MODEL} is on the CPU, and the GPU is sound")
    assert done == f"<5>well: mended in 0 s, {MODEL} is served as planned"
    assert box.read("deeds").splitlines() == [
        "--no-block restart ollama.service",
        "start r1fleet-preload.service",
    ]
    assert box.look() == []
    assert box.state["mended"] == "1"


def test_what_a_restart_does_not_mend_is_tried_three_times_a_day_and_no_more(box: Box) -> None:
    box.write("ps", ps((MODEL, 0)))
    lines = [line for _ in range(40) for line in box.look(300)]
    assert box.repairs == 3
    stamps = [int(stamp) for stamp in box.state["repairs"].split()]
    assert min(b - a for a, b in pairwise(stamps)) >= 600
    assert [line for line in lines if "no more repairs today, 3 are the limit" in line]
    assert len(lines) <= 6  # three that begin, one that it failed, one that it gives up
    assert (box.state["mended"], box.state["unmended"]) == ("0", "3")
    box.look(86400)
    assert box.repairs == 4


def test_the_setting_for_none_a_day_repairs_nothing(box: Box) -> None:
    box.settings["repairs_per_day"] = 0
    on_the_cpu(box)
    box.look()
    assert box.repairs == 0


def test_a_run_that_has_the_lock_of_the_lease_comes_first(box: Box) -> None:
    on_the_cpu(box)
    lock = box.root / "run/r1fleet/lease.lock"
    lock.touch()
    with subprocess.Popen(
        ["flock", lock, "sh", "-c", "echo held; read x"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout
        assert holder.stdin
        assert holder.stdout.readline() == b"held\n"
        box.look()
        assert box.repairs == 0
        holder.stdin.close()
    box.look()
    assert box.repairs == 1


def test_a_request_that_begins_during_the_last_look_is_not_cut_off(box: Box) -> None:
    """The look at the cards takes seconds on some hosts."""
    on_the_cpu(box)
    usual = box.read("bin/nvidia-smi")
    box.write(
        "bin/nvidia-smi",
        '#!/bin/sh\n[ ! -e "$ROOT/once" ] || '
        'echo \'[{"id":0,"is_processing":true}]\' >"$ROOT/slots"\n'
        f': >"$ROOT/once"\n{usual}',
    )
    (line,) = box.look()
    assert line == f"<4>failing: {MODEL} is on the CPU"
    assert box.repairs == 0
    box.write("bin/nvidia-smi", usual)
    box.write("slots", '[{"id":0,"is_processing":false}]\n')
    box.look()
    assert box.repairs == 1


def test_a_run_that_takes_the_host_during_a_repair_falsifies_no_count(box: Box) -> None:
    on_the_cpu(box)
    box.gone("ps.after")
    held = (
        '{"schema": 1, "run": "r1", "since": "2026-01-01T00:00:00+00:00",'
        ' "until": "2099-01-01T00:00:00+00:00"}'
    )
    usual = box.read("bin/systemctl")
    box.write(
        "bin/systemctl",
        f"{usual}case $1 in start) echo '{held}' >\"$ROOT/var/lib/r1fleet/lease.json\" ;; esac\n",
    )
    (begun,) = box.look()
    assert begun.startswith("<5>repairs")
    assert (box.state["mended"], box.state["unmended"]) == ("0", "0")
    assert box.state["repairs"] == str(box.now)  # it counts for the limit


def test_without_a_memory_nothing_is_repaired(box: Box) -> None:
    """A full disk: what cannot be counted has no limit."""
    on_the_cpu(box)
    (box.root / "var/lib/r1fleet/watch/state.new").mkdir()
    with pytest.raises(AssertionError):  # the shell complains
        box.look()
    assert box.repairs == 0


@pytest.mark.parametrize("there", [True, False])
def test_without_ss_any_connection_to_the_engine_is_a_request(box: Box, there: bool) -> None:
    """2CAA is port 11434; 01 is an open connection, 0A a port that is listened on."""
    box.write("no-ss", "")
    state = "01" if there else "0A"
    box.write(
        "proc/net/tcp",
        "  sl  local_address rem_address   st\n"
        f"   0: 0100007F:2CAA 0100007F:C350 {state} 00000000:00000000\n"
        "   1: 0100007F:C350 0100007F:2CAA 01 00000000:00000000\n",
    )
    on_the_cpu(box)
    box.look()
    assert box.repairs == int(not there)


def test_while_somebody_is_at_work_nothing_is_told_and_after_it_what_is_left(box: Box) -> None:
    box.look()
    HOLDS["a lease"][0](box)
    box.write("ps", ps((MODEL, 0)))
    assert box.look() == []
    box.gone("var/lib/r1fleet/lease.json")
    assert box.look()[0].startswith("<5>repairs")


@pytest.mark.parametrize("hold", ["a lease", "maintenance", "an installation"])
def test_while_somebody_is_at_work_the_cards_are_not_touched(box: Box, hold: str) -> None:
    """A device that is open keeps the driver's module in the kernel, and a run may change it."""
    box.write("bin/nvidia-smi", '#!/bin/sh\necho x >>"$ROOT/smi.log"\necho "GPU 0: T4"\n')
    HOLDS[hold][0](box)
    box.look()
    assert box.read("smi.log") == ""
    assert "r1fleet_gpus " not in box.read("collector/r1fleet.prom")
    box.healthy()
    box.look()
    assert box.read("smi.log") == "x\n"


def test_a_load_is_no_news_until_it_takes_too_long(box: Box) -> None:
    """A unit that waits for a GPU that is gone is always starting."""
    box.look()
    box.gone("ps")
    box.write("units", units("activating", "inactive"))
    assert [box.look(60) for _ in range(8)] == [[]] * 8
    assert box.look(60) == ["<4>failing: ollama.service has been activating for 480 s"]


def test_other_clients_models_are_no_fault_and_an_empty_engine_is_one(box: Box) -> None:
    box.look()
    box.write("ps", ps(("mistral:7b", SIZE)))
    assert box.look() == []
    box.write("ps", ps(("all-minilm:latest", SIZE)))  # ours too, and no reason for it
    assert box.look() == [f"<4>failing: {MODEL} is not loaded"]
    box.write("ps", ps())
    assert box.look() == []
    box.settings["for_ever"] = ""
    assert box.look() == [f"<5>well: {MODEL} is served as planned"]


def test_a_plan_for_the_cpu_is_as_planned(box: Box) -> None:
    box.settings |= {"placement": "cpu", "gpu_kind": "none", "gpus": 0}
    box.write("ps", ps((MODEL, 0)))
    lost(box)
    assert box.look() == [f"<5>well: {MODEL} is served as planned"]
    assert box.repairs == 0


def test_one_token_is_asked_for_every_so_often_and_only_of_an_idle_engine(box: Box) -> None:
    box.settings["ask_every_s"] = 900
    ACTS["a slot at work"][0](box)
    box.look()
    assert box.read("asked") == ""
    box.write("slots", '[{"id":0,"is_processing":false}]\n')
    for _ in range(31):
        box.look()
    assert box.read("asked") == "asked\n" * 2
    box.write("said", "\n")
    lines = [line for _ in range(40) for line in box.look()]
    assert lines == [f"<4>failing: {MODEL} does not answer (HTTP )"]
    box.write("said", '{"done":true}\n')
    assert [line for _ in range(4) for line in box.look()] == [
        f"<5>well: {MODEL} is served as planned"
    ]
    assert box.repairs == 0


def test_a_slot_at_work_is_an_answer_too(box: Box) -> None:
    """A host under steady load finds no moment to be asked again."""
    box.settings["ask_every_s"] = 60
    box.write("said", "\n")
    assert box.look() == [f"<4>failing: {MODEL} does not answer (HTTP )"]
    box.write("connections", WAITING)  # busy, and no slot is at work: it may hang
    assert [line for _ in range(4) for line in box.look()] == []
    box.write("slots", '[{"id":0,"is_processing":true}]\n')
    assert [line for _ in range(4) for line in box.look()] == [
        f"<5>well: {MODEL} is served as planned"
    ]
    assert box.read("asked") == "asked\n"


def test_a_model_that_is_to_be_unloaded_is_not_kept_by_questions(box: Box) -> None:
    box.settings |= {"ask_every_s": 60, "for_ever": ""}
    for _ in range(4):
        box.look(100)
    assert box.read("asked") == ""


XID = "[{0:>6}.000001] NVRM: Xid (PCI:0000:01:00): {1}, pid=7, name=llama-server\n"


def test_xids_are_counted_once_and_those_of_a_gpu_are_told(box: Box) -> None:
    box.write("dmesg", XID.format(10, 79))
    assert box.look() == [f"<5>well: {MODEL} is served as planned"]  # from before the watch
    box.write("dmesg", XID.format(10, 79) + XID.format(200, 31) + "[  201.5] other line\n")
    assert box.look() == []
    with (box.root / "dmesg").open("a") as log:
        log.write(XID.format(300, 48))
    assert box.look() == ["<4>failing: Xid 48 of PCI:0000:01:00 in the kernel's log"]
    assert box.look() == []
    assert (box.state["xid_app"], box.state["xid_gpu"]) == ("1", "1")
    assert box.look(700) == [f"<5>well: {MODEL} is served as planned"]
    box.write("proc/sys/kernel/random/boot_id", "b2\n")
    box.write("dmesg", XID.format(5, 79))
    box.look()
    assert box.state["xid_gpu"] == "2"


def test_a_disk_that_fills_is_told(box: Box) -> None:
    box.look()
    box.write("free", f"{5119 * 1024}\n")
    assert box.look() == ["<4>failing: 5119 MiB are free for /models"]


def test_the_hook_is_called_for_each_change_under_an_account_without_rights(box: Box) -> None:
    box.settings["hook"] = "/usr/local/bin/tell"
    box.look()
    assert box.read("hook") == ""  # that all is well at first is no news
    lost(box)
    box.look()
    box.look()
    words = box.read("hook").splitlines()
    assert words[-3:] == ["/usr/local/bin/tell", "failing", "0 of 1 GPUs are listed"]
    assert {"DynamicUser=yes", "RuntimeMaxSec=60"} < set(words)
    assert "--setenv=R1FLEET_FAULTS=gpus" in words
    assert words.count("failing") == 1
    # Without waiting for it, systemd-run knows nothing of a program that is not there.
    box.write("bin/systemd-run", '#!/bin/sh\ncase "$*" in *--no-block*) ;; *) exit 1 ;; esac\n')
    box.healthy()
    box.look()
    assert box.state["hooks_failed"] == "1"


def test_what_is_remembered_is_written_only_when_it_changes(box: Box) -> None:
    box.look()
    state = box.root / "var/lib/r1fleet/watch/state"
    before = state.stat().st_mtime_ns, state.stat().st_ino
    box.look()
    assert (state.stat().st_mtime_ns, state.stat().st_ino) == before


@pytest.mark.parametrize(
    "text",
    ["", "faults=$(reboot)\n", "repairs=x y\nmended=-1\n", "\0\n", "since=" + "9" * 40 + "\n"],
)
def test_a_damaged_memory_is_none(box: Box, text: str) -> None:
    box.write("var/lib/r1fleet/watch/state", text)
    assert box.look() == [f"<5>well: {MODEL} is served as planned"]
    assert box.state["mended"] == "0"


LINE = re.compile(r'(r1fleet_[a-z_]+)(\{[a-z]+="[^"\\]*"\})? (\d+(\.\d+)?)')


def test_the_metrics_are_a_whole_file_of_the_exposition_format(box: Box) -> None:
    on_the_cpu(box)
    box.look()
    metrics = box.root / "collector/r1fleet.prom"
    assert [path.name for path in metrics.parent.iterdir()] == ["r1fleet.prom"]
    assert metrics.stat().st_mode & 0o777 == 0o644
    kinds: dict[str, str] = {}
    values: dict[str, float] = {}
    lines = metrics.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.startswith("# HELP "):
            assert lines[number + 1].startswith(f"# TYPE {line.split()[2]} ")
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name not in kinds
            kinds[name] = kind
        else:
            match = LINE.fullmatch(line)
            assert match, line
            assert match[1] == list(kinds)[-1]  # each below its own head
            values[match[1] + (match[2] or "")] = float(match[3])
    assert {name for name, kind in kinds.items() if kind == "counter"} == {
        name for name in kinds if name.endswith("_total")
    }
    assert values['r1fleet_repairs_total{result="mended"}'] == 1
    assert values[f'r1fleet_model_vram_bytes{{model="{MODEL}"}}'] == SIZE
    assert values["r1fleet_watch_last_run_timestamp_seconds"] == box.now


def test_counters_survive_a_boot(box: Box) -> None:
    on_the_cpu(box)
    box.look()
    box.healthy()
    box.write("proc/sys/kernel/random/boot_id", "b2\n")
    box.look()
    assert 'repairs_total{result="mended"} 1' in box.read("collector/r1fleet.prom")


def test_without_a_collector_nothing_is_written_for_it(box: Box) -> None:
    box.settings["textfile_dir"] = box.root / "none"
    box.look()
    assert not (box.root / "none").exists()


def test_it_is_plain_shell() -> None:
    subprocess.run(["dash", "-n"], input=script(), text=True, check=True)
