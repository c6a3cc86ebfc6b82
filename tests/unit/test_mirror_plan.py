"""Who is a mirror, for whom, who may ask it, and what its files say."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1fleet import decide, paths
from r1fleet.engine import wanted
from r1fleet.mirror import plan
from r1fleet.mirror.source import lacks
from r1fleet.mirror.through import Source
from r1fleet.model.manifest import parse, state_entry
from r1fleet.settings import Settings, SettingsError, read
from tests.unit.build import bare, working
from tests.unit.registry import BIG, SMALL, serve

HEX = "ab" * 32


def config(*addresses: str, **data: Any) -> str:
    return plan.wanted(Settings(**data), addresses).files[0].content


def fault(data: dict[str, Any]) -> str:
    with pytest.raises(SettingsError) as caught:
        plan.join({"m": read("m", data)}, {"m": "10.0.0.9"}, ["m"])
    (only,) = caught.value.lines
    return only


def test_every_host_is_told_the_first_mirror_of_the_group() -> None:
    settings = {"a": Settings(), "m": Settings(mirror_port=6000), "n": Settings()}
    found = plan.join(settings, {"a": "gpu1", "m": "10.0.0.9", "n": "10.0.0.10"}, ["m", "n"])
    assert {own.mirror_url for own in found.settings.values()} == {"http://10.0.0.9:6000"}
    assert set(found.mirrors) == {"m", "n"}
    assert found.first == "m"


def test_a_mirror_of_ones_own_choice_stays() -> None:
    own = Settings(mirror_url="http://cache.example.org:5080")
    found = plan.join({"a": own, "m": Settings()}, {"a": "a", "m": "fd00::9"}, ["m"])
    assert found.settings["a"] == own
    assert found.settings["m"].mirror_url == "http://[fd00::9]:5080"


def test_without_the_group_nothing_is_told() -> None:
    settings = {"a": Settings()}
    assert plan.join(settings, {"a": "a"}, []) == plan.Fleet(settings, {}, None)


def test_a_mirror_behind_a_proxy_is_refused() -> None:
    told = fault({"https_proxy": "http://user:secret@proxy:3128"})
    assert told.startswith("m: https_proxy: a mirror cannot fetch through a proxy")
    assert "secret" not in told


def test_a_mirror_of_itself_is_refused() -> None:
    told = fault({"registry_url": "http://10.0.0.9:5080"})
    assert told == "m: registry_url: is the mirror itself; name the source behind it"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"mirror_allow": "10.0.0.0/33"}, "has no network"),
        ({"mirror_allow": "10.0.0.1/8"}, "has host bits set"),
        ({"mirror_bind": "eth0"}, "is not an address"),
        ({"mirror_port": 80}, "use at least 1024"),
        ({"mirror_size": "1T; include /etc/passwd"}, "is not a size"),
        ({"mirror_dir": "/var"}, "holds other things too"),
        ({"mirror_url": "http://m:5080/x"}, "has a path"),
    ],
)
def test_wrong_settings(data: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(told)):
        read("m", data)


def test_who_may_ask() -> None:
    loopback = ("127.0.0.0/8", "::1/128")
    assert plan.allowed(Settings(), ["10.0.0.2", "10.0.0.1", "fd00::1"]) == (
        *("10.0.0.1/32", "10.0.0.2/32"),
        *(loopback[0], "::1/128", "fd00::1/128"),
    )
    by_name = plan.allowed(Settings(), ["gpu1.example.org"])
    assert set(by_name) == {*plan.PRIVATE, *loopback}
    said = Settings(mirror_allow=("10.20.0.0/16",), mirror_bind="10.20.0.1")
    assert set(plan.allowed(said, ["gpu1", "10.0.0.1"])) == {
        *("10.20.0.0/16", "10.20.0.1/32"),
        *loopback,
    }


@given(st.permutations(["10.0.0.1", "10.0.0.2", "192.168.7.7", "fd00::1", "gpu9"]))
def test_the_files_do_not_depend_on_the_order_of_hosts(addresses: list[str]) -> None:
    assert config(*addresses) == config(*sorted(addresses))


def test_one_server_on_the_lan_one_behind_a_socket_and_fixed_sources() -> None:
    text = config("10.0.0.1", mirror_bind="10.0.0.9")
    assert re.findall(r"listen (\S+);", text) == [
        "10.0.0.9:5080",
        "unix:/run/r1fleet-mirror/source.sock",
    ]
    passed = set(re.findall(r"proxy_pass ([^;]+);", text))
    outward = {url for url in passed if not url.startswith("http://source")}
    assert outward == {"$registry$uri", "$engine/$file", "$place"}
    assert 'set $registry "https://registry.ollama.ai";' in text
    # From a source with https, no redirect leads to anything less.
    assert '"~^\\S+ (?<place>https://.+)$" $place;' in text
    assert "https?://" in config(registry_url="http://10.0.0.3:5000")


def test_a_size_or_place_of_its_own() -> None:
    text = config(mirror_dir="/data/cache", mirror_size="2000G")
    assert "proxy_cache_path /data/cache/cache " in text
    assert "max_size=2000g" in text
    unit = plan.wanted(Settings(mirror_dir="/data/cache"), []).files[2].content
    assert "RequiresMountsFor=/data/cache\n" in unit


def locations(text: str) -> list[re.Pattern[str]]:
    patterns = re.findall(r'location ~ "([^"]+)" \{', text)
    return [re.compile(pattern.replace("(?<", "(?P<")) for pattern in patterns]


@pytest.mark.parametrize(
    ("path", "served"),
    [
        (f"/v2/library/deepseek-r1/blobs/sha256:{HEX}", True),
        (f"/v2/library/deepseek-r1/manifests/sha256:{HEX}", True),
        ("/v2/library/deepseek-r1/manifests/14b", True),
        ("/v2/a/b/c/manifests/latest", True),
        ("/engine/v0.32.15/ollama-linux-amd64.tar.zst", True),
        ("/engine/v0.32.15-rc1/ollama-linux-amd64-rocm.tar.zst", True),
        ("/engine/v0.32.15/sha256sum.txt", True),
        ("/engine/v0.32.15/ollama-darwin.zip", False),
        ("/engine/../secret/ollama-linux-x", False),
        ("/v2/deepseek-r1/manifests/14b", False),
        ("/v2/library/../../manifests/14b", False),
        ("/v2/library/m/manifests/..", False),
        ("/v2/library/m/tags/list", False),
        (f"/v2/library/m/blobs/sha256:{HEX}0", False),
        (f"/v2/library/m/blobs/uploads/sha256:{HEX}", False),
        ("/v2/http://elsewhere/m/manifests/14b", False),
        ("/v2/", False),
    ],
)
def test_only_the_paths_that_are_needed(path: str, served: bool) -> None:
    found = any(pattern.search(path) for pattern in locations(config()))
    assert found is served


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_no_path_leads_up(text: str) -> None:
    for pattern in locations(config()):
        if match := pattern.search(f"/v2/{text}/manifests/x"):
            parts = (match["repository"] or "").split("/")
            assert not {"", ".", ".."} & set(parts)


def test_nginx_takes_the_file(tmp_path: Path) -> None:
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin")
    assert nginx, "no nginx on this machine: make check installs it"
    text = config("10.0.0.1", "fd00::1", "gpu1", mirror_bind="::")
    text = text.replace("/run/r1fleet-mirror", str(tmp_path)).replace(
        "/var/lib/r1fleet-mirror", str(tmp_path)
    )
    (tmp_path / "resolver.conf").write_text("resolver 127.0.0.53 [::1];\n")
    (tmp_path / "mirror.conf").write_text(text)
    command = [nginx, "-t", "-e", "stderr", "-c", str(tmp_path / "mirror.conf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_resolver_is_read_from_the_host(tmp_path: Path) -> None:
    script = plan.wanted(Settings(), []).files[1]
    assert script.path == paths.MIRROR_RESOLVER
    names = "# x\nsearch a\nnameserver 10.0.0.53\nnameserver fd00::53\nnameserver fe80::1%eth0\n"
    for content, told in ((names, "resolver 10.0.0.53 [fd00::53];\n"), ("", "\n")):
        (tmp_path / "resolv.conf").write_text(content)
        text = script.content.replace("/etc/resolv.conf", str(tmp_path / "resolv.conf"))
        environment = {"RUNTIME_DIRECTORY": str(tmp_path)}
        subprocess.run(["sh", "-c", text], env=environment, check=True)
        assert (tmp_path / "resolver.conf").read_text() == told


def test_a_model_through_the_mirror_keeps_its_name_and_knows_the_source() -> None:
    settings = Settings()
    choice = decide.size(settings, bare("T4", driver=working("T4"))).sizing.chosen
    want = decide.model_wanted(settings, choice)
    assert Source().model(want) == want
    through = Source(models="http://m:5080").model(want)
    assert (through.name, through.digest) == (want.name, want.digest)
    assert through.registry_url == "http://m:5080"
    assert through.fallback_url == "https://registry.ollama.ai"
    assert Source(models="http://m:5080", fallback=False).model(want).fallback_url is None


def test_an_archive_through_the_mirror() -> None:
    settings = Settings(engine_url="https://example.org/releases")
    archive = wanted.archive(settings, "x86_64", rocm=True)
    assert Source(models="http://m:5080").archive(archive, settings) == archive
    found = Source(engine="http://m:5080").archive(archive, settings)
    assert found.key == archive.key
    assert found.url == "http://m:5080/engine/v0.32.15/ollama-linux-amd64.tar.zst"
    assert found.rocm_url == "http://m:5080/engine/v0.32.15/ollama-linux-amd64-rocm.tar.zst"
    assert (found.mirror, found.source) == ("http://m:5080/engine", "https://example.org/releases")


def test_the_mirror_is_asked_only_where_something_is_lacking() -> None:
    settings = Settings()
    probe = bare("T4", driver=working("T4"))
    choice = decide.size(settings, probe).sizing.chosen
    assert lacks(settings, probe, choice)
    with serve() as registry:
        manifest = parse(registry.manifest)
    want = decide.model_wanted(settings, choice)
    blobs = {blob.file_name: blob.size_bytes for blob in manifest.blobs}
    assert set(blobs.values()) == {len(BIG), len(SMALL)}
    digest = manifest.digest.removeprefix("sha256:")
    store = replace(probe.models, manifests={want.manifest_path: digest}, blobs=blobs)
    whole = replace(
        probe,
        models=store,
        state={"models": {want.name: state_entry(manifest)}},
        engine_versions=frozenset({wanted.archive(settings, probe.arch).key}),
    )
    assert not lacks(settings, whole, choice)
    assert lacks(settings, replace(whole, engine_versions=frozenset()), choice)
    assert lacks(settings, replace(whole, models=replace(store, blobs={})), choice)


def test_the_mirror_is_reached_without_the_proxy() -> None:
    own = Settings(https_proxy="http://p:3128", no_proxy="a", mirror_url="http://10.0.0.9:5080")
    assert own.proxies["no_proxy"] == "a,10.0.0.9"
    assert Settings(mirror_url="http://10.0.0.9:5080").proxies == {}
