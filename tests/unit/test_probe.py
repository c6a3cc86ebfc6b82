"""Reading what the probe prints: from recorded outputs, and from anything at all."""

import subprocess
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1fleet import probe
from r1fleet.hostfacts import Gateway, Watch
from r1fleet.probe import ProbeError, parse

# Recorded on the lab's host `duo`, Debian 12, after the main job.
SERVED = (Path(__file__).parent / "data" / "probe" / "duo_served.txt").read_text()


def test_a_served_host_as_recorded() -> None:
    found = parse(SERVED)
    assert (found.distro, found.distro_version, found.kernel) == ("debian", "12", "6.1.0-44-amd64")
    assert (found.cores, found.ram_mib, found.virtualisation) == (32, 131072, "none")
    assert [gpu.device for gpu in found.nvidia_gpus] == ["2684", "2684"]
    assert len(found.pci) == 3  # the management controller's VGA is there, and is no GPU of ours
    driver = found.driver
    assert (driver.loaded, driver.on_disk, driver.library) == ("580.178.04",) * 3
    assert driver.open_module
    assert driver.uvm_loaded
    assert [gpu.memory_total_mib for gpu in driver.gpus] == [24564, 24564]
    assert driver.gpus[0].compute_capability == (8, 9)
    assert {process.pid for process in driver.processes} == {163}
    assert found.packages["nvidia-driver-cuda"] == "580.178.04-1"
    assert "nvidia-kernel-dkms" not in found.packages  # known to dpkg, not installed
    assert found.unit("ollama.service").active == "active"
    assert found.unit("ollama.service").enabled
    assert found.unit("r1fleet-pull.service").load == "not-found"
    assert found.engine_current == "0.32.15-882e7180e766"
    assert found.engine_versions == {"0.32.15-882e7180e766"}
    assert not found.restart_pending
    assert found.models.kind == "directory"
    assert found.models.owner == "ollama:ollama"
    assert list(found.models.manifests) == ["registry.ollama.ai/library/deepseek-r1/70b"]
    assert max(found.models.blobs.values()) == 1928576
    assert found.engine_version == "0.32.15"
    (loaded,) = found.loaded
    assert loaded.residency == 1.0
    assert loaded.context == 25600
    assert found.state["decision"]["choice"]["tag"] == "70b"


def test_folders_of_somebodys_archive_are_no_versions_of_the_engine() -> None:
    theirs = "versions /opt/ollama/bin/ /opt/ollama/lib/ "
    found = parse(SERVED.replace("versions /opt/ollama/", f"{theirs}/opt/ollama/", 1))
    assert found.engine_versions == {"0.32.15-882e7180e766"}
    alone = SERVED.replace("/opt/ollama/0.32.15-882e7180e766/ /opt/ollama/current/", theirs[9:])
    assert parse(alone).engine_versions == frozenset()


def test_only_units_that_are_there_are_asked_for(tmp_path: Path) -> None:
    """Each one that is not costs a host's systemd as much as all that are."""
    tool = tmp_path / "systemctl"
    tool.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n')
    tool.chmod(0o755)
    script = probe.command(str(tmp_path), "http://127.0.0.1:9").replace(
        "/run/systemd/transient", str(tmp_path)
    )
    (tmp_path / "r1fleet-pull.service").touch()
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run(["sh", "-c", script], env=env, capture_output=True, check=True)
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("show ollama.service r1fleet-pull.service -p Id,")


def test_what_came_with_r1fleet_and_whom_a_mirror_lets_in() -> None:
    told = (
        "here /var/lib/r1fleet/state.json /var/lib/r1fleet/adopted\nbrought tool aria2\n"
        "brought tool aria2\nbrought user ollama\nbrought tool $(reboot)\n"
        "allows 10.0.0.1/32;\nallows all;\n"
    )
    found = parse(SERVED.replace("@@engine\n", f"@@engine\n{told}"))
    assert found.here == {"state.json", "adopted"}
    assert found.brought == (("tool", "aria2"), ("user", "ollama"))
    assert found.mirror_allows == ("10.0.0.1/32",)
    assert found.engine_current == "0.32.15-882e7180e766"
    assert (parse(SERVED).here, parse(SERVED).brought) == (frozenset(), ())


def test_what_a_hosts_watch_has_noted_is_read_as_text() -> None:
    noted = "watch faults=gpus cpu\nwatch what=0 of 1 GPUs = none\nwatch since=1800000000\n"
    noted += "watch repairs=1799999000 x 1799990000\n"
    found = parse(SERVED.replace("@@engine\n", f"@@engine\n{noted}"))
    assert found.watch == Watch(
        ("gpus", "cpu"), "0 of 1 GPUs = none", 1800000000, (1799999000, 1799990000)
    )
    assert found.engine_current == "0.32.15-882e7180e766"
    assert parse(SERVED).watch is None


def test_the_script_runs_on_this_machine_and_ends_with_zero() -> None:
    script = probe.command("/nowhere/with a space/'quoted'", "http://127.0.0.1:1")
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    assert done.stdout.isascii()
    found = parse(done.stdout.decode())
    assert found.models.kind is None
    assert found.models.disk_free_bytes > 0
    assert found.engine_version is None


class _Liar(BaseHTTPRequestHandler):
    """Answers in the place of an engine: any user of a host can, while the engine is away."""

    def do_GET(self) -> None:
        body = b"{}\n@@login\n0\n@@packages\nlibnvidia-x;reboot 580.95.05-1 ii\n@@end\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_what_others_can_write_adds_to_no_section_but_its_own(tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (blobs / "sha256-a\n@@tools\nnginx").touch()
    server = HTTPServer(("127.0.0.1", 0), _Liar)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        script = probe.command(str(tmp_path), f"http://127.0.0.1:{server.server_port}")
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert "reboot" in done.stdout
    assert not any("reboot" in name for name in parse(done.stdout).packages)
    marks = [line for line in done.stdout.splitlines() if line.startswith("@@")]
    assert len(marks) == len(set(marks)) == len(probe.SECTIONS)


def test_a_section_that_comes_twice_fails_the_host() -> None:
    with pytest.raises(ProbeError, match="section login twice"):
        parse(f"@@login\n0\n{SERVED}")


PEM = ("-----BEGIN CERTIFICATE-----", "MIIB+/8=", "-----END CERTIFICATE-----")


def gateway(*rows: str) -> Gateway:
    begin = "@@gateway\n"
    assert begin in SERVED
    return parse(SERVED.replace(begin, begin + "".join(f"{row}\n" for row in rows))).gateway


def test_a_gateways_pool_and_certificate() -> None:
    pools = "pools /etc/r1fleet/gateway/pools/0123456789ab"
    found = gateway(pools, *(f"root {line}" for line in PEM))
    assert found.pools == {"0123456789ab"}
    assert found.root == "".join(f"{line}\n" for line in PEM)


@pytest.mark.parametrize("name", ["x;reboot", "$(id)", "0123456789ab;", "0123456789AB", "*"])
def test_a_pool_of_another_form_reaches_no_fleet_gateway(name: str) -> None:
    """It would become a word of a command there."""
    assert gateway(f"pools /etc/r1fleet/gateway/pools/{name}").pools == set()


@pytest.mark.parametrize("line", ["MII }", "MII {env.HOME}", "", "MII=A", "-----X", "M\tI"])
def test_a_certificate_with_more_in_it_is_none(line: str) -> None:
    """It would stand in the Caddyfile of a fleet gateway."""
    assert gateway(*(f"root {row}" for row in (PEM[0], PEM[1], line, PEM[2]))).root == ""


@pytest.mark.parametrize("row", ["x;reboot 1 ii", "$(id) 1 ii", "nvidia-x 1$(id) ii", "-x 1 ii"])
def test_a_package_with_a_name_that_none_has_is_not_there(row: str) -> None:
    begin = "@@packages\n"
    found = parse(SERVED.replace(begin, f"{begin}{row}\n"))
    assert found.packages == parse(SERVED).packages


@given(st.integers(min_value=0, max_value=len(SERVED) - len("@@end\n") - 1))
def test_a_cut_answer_never_looks_like_a_bare_host(length: int) -> None:
    with pytest.raises(ProbeError, match="no section"):
        parse(SERVED[:length])


@given(st.lists(st.sampled_from([*SERVED.splitlines(), "@@gpus", "rc=x", "0, x", "blob x"])))
def test_lines_in_any_order_are_read_or_refused(lines: list[str]) -> None:
    text = "\n".join([*lines, *(f"@@{name}" for name in probe.SECTIONS)])
    with suppress(ProbeError):  # any other exception would end the run for every host
        assert parse(text).cores >= 1


def test_a_line_that_is_none_of_ours_is_refused_by_name() -> None:
    with pytest.raises(ProbeError, match="cannot be read"):
        parse(SERVED.replace("is directory|", "is "))


@pytest.mark.parametrize("value", ["[N/A]", "[Unknown Error]", "[Not Supported]", ""])
def test_a_field_without_a_number_is_unknown_and_the_rest_stays(value: str) -> None:
    found = parse(SERVED.replace(", 24564, 22899, 8.9", f", {value}, 22899, {value}"))
    assert found.driver.gpus[0].memory_total_mib is None
    assert found.driver.gpus[0].compute_capability is None
    assert found.driver.gpus[1].memory_total_mib == 24564


def test_exit_code_of_nvidia_smi_is_kept() -> None:
    head, _, tail = SERVED.partition("@@gpus\n")
    found = parse(f"{head}@@gpus\nrc=18\n@@compute{tail.partition('@@compute')[2]}")
    assert found.driver.smi_rc == 18
    assert found.driver.gpus == ()


def test_a_restart_that_an_interrupted_run_left_open_is_seen() -> None:
    assert parse(SERVED.replace("@@engine\n", "@@engine\nrestart pending\n")).restart_pending


def test_a_lease_comes_with_the_hosts_clock() -> None:
    assert parse(SERVED).lease == ()
    told = '{"schema": 1, "who": "ann@desk"}\n2026-11-24T21:00:00+00:00\n'
    found = parse(SERVED.replace("@@lease\n", f"@@lease\n{told}"))
    assert found.lease == tuple(told.splitlines())
