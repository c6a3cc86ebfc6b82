"""Settings: what is taken, what is refused, and in which words."""

import re
from typing import Any

import pytest

from r1fleet.settings import Settings, SettingsError, read, read_all


def line(**data: Any) -> str:
    """The one fault of these data."""
    with pytest.raises(SettingsError) as caught:
        read("t4", data)
    (only,) = caught.value.lines
    return only.removeprefix("t4: ")


def taken(**data: Any) -> Settings:
    return read("t4", data)


def test_defaults_are_valid() -> None:
    settings = taken(**Settings().model_dump())
    assert settings == Settings() == taken()
    assert settings.base_url == "http://127.0.0.1:11434"
    assert settings.loopback


def test_every_field_has_a_description() -> None:
    assert all(field.description for field in Settings.model_fields.values())
    assert set(Settings.HEADINGS) <= set(Settings.model_fields)


@pytest.mark.parametrize(
    ("host", "port", "listens", "base_url", "loopback"),
    [
        ("0.0.0.0", None, "0.0.0.0:11434", "http://127.0.0.1:11434", False),
        ("0.0.0.0:8080", 8080, "0.0.0.0:8080", "http://127.0.0.1:8080", False),
        (":8080", None, "0.0.0.0:8080", "http://127.0.0.1:8080", False),
        ("[::]:5", None, "[::]:5", "http://[::1]:5", False),
        ("[::1]", 99, "[::1]:99", "http://[::1]:99", True),
        ("::1", None, "[::1]:11434", "http://[::1]:11434", True),
        ("localhost", None, "localhost:11434", "http://localhost:11434", True),
        ("http://10.0.0.7:80", None, "10.0.0.7:80", "http://10.0.0.7:80", False),
        ("http://127.0.0.1", 8080, "127.0.0.1:8080", "http://127.0.0.1:8080", True),
        (
            "gpu1.example.org",
            None,
            "gpu1.example.org:11434",
            "http://gpu1.example.org:11434",
            False,
        ),
        # What group_data/all.py holds does not contradict a port.
        ("127.0.0.1:11434", 8080, "127.0.0.1:8080", "http://127.0.0.1:8080", True),
    ],
)
def test_host_and_port_become_one(
    host: str, port: int | None, listens: str, base_url: str, loopback: bool
) -> None:
    told = {} if loopback else {"expose": "open", "expose_unauthenticated": "yes-i-know"}
    settings = taken(ollama_host=host, port=port, **told)
    assert (settings.ollama_host, settings.base_url) == (listens, base_url)
    assert settings.loopback is loopback is not settings.listens_beyond_loopback


def test_a_port_alone() -> None:
    assert taken(port=8080).ollama_host == "127.0.0.1:8080"


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("http://0.0.0.0", "Ollama takes 80 then"),
        ("https://0.0.0.0:443", "it speaks http only"),
        ("127.0.0.1:65536", "port out of range"),
        ("127.0.0.1:0", "port out of range"),
        ("127.0.0.1:abc", "not an address"),
        ("127.0.0.1:80/api", "not host:port"),
        ("300.1.1.1", "not an address"),
        ("11434", "not an address"),
        ("", "not host:port"),
        ("a b", "not an address"),
        (None, "is not a text"),
    ],
)
def test_hosts_that_ollama_would_take_otherwise_than_meant(host: object, words: str) -> None:
    assert words in line(ollama_host=host)


def test_host_and_port_may_not_contradict() -> None:
    assert line(ollama_host="0.0.0.0:1234", port=80) == (
        "ollama_host: names port 1234, but port is 80, got '0.0.0.0:1234'; set only one of them"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(300, "300"), ("300", "300"), (-1, "-1"), ("-5m", "-1"), ("1h30m", "1h30m"), ("0", "0")],
)
def test_times(value: object, text: str) -> None:
    settings = taken(ollama_keep_alive=value, ollama_load_timeout=value)
    assert (settings.ollama_keep_alive, settings.ollama_load_timeout) == (text, text)


@pytest.mark.parametrize("value", ["5 minutes", "5d", True, 1.5, "", "m", None, "5m; rm"])
def test_what_is_no_time(value: object) -> None:
    assert "is not a time" in line(ollama_keep_alive=value)


def test_origins() -> None:
    both = ("https://a.example.org", "app://*")
    assert taken(ollama_origins="https://a.example.org, app://*").ollama_origins == both
    assert taken(ollama_origins=list(both)).ollama_origins == both
    assert taken(ollama_origins="*").ollama_origins == ("*",)
    assert taken(ollama_origins="").ollama_origins == ()


@pytest.mark.parametrize("value", ["ui.example.com", "null", "https://*.a.*", "*.a", "x://y z", 3])
def test_origins_that_crash_the_engine(value: object) -> None:
    assert line(ollama_origins=value).startswith("ollama_origins: ")


@pytest.mark.parametrize(
    "value", ["/data/models", "/home/ollama/m", "/mnt/d/", "/usr/share/ollama/m"]
)
def test_model_directories(value: str) -> None:
    assert taken(ollama_models=value).ollama_models == value.rstrip("/")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("models", "absolute"),
        ("/", "holds other things"),
        ("/var/lib/", "holds other things"),
        ("/etc/ollama", "system's own"),
        ("/usr/lib/x", "system's own"),
        ("//etc/x", "system's own"),
        ("/opt/ollama/models", "system's own"),
        ("/var/lib/r1fleet", "system's own"),
        ("/data/../etc", "plain path"),
        ("/data/a b", "plain path"),
        ("/data/$x", "plain path"),
        ("/data/a\nb", "plain path"),
        (5, "is not a text"),
    ],
)
def test_model_directories_that_are_refused(value: object, words: str) -> None:
    assert words in line(ollama_models=value)


def test_further_environment() -> None:
    assert taken(extra_env={"GGML_X": 1, "B": "two words"}).extra_env == {
        "GGML_X": "1",
        "B": "two words",
    }
    assert "use ollama_host" in line(extra_env={"OLLAMA_HOST": "x"})
    assert "use port" in line(extra_env={"OLLAMA_PORT": "x"})
    assert "use https_proxy" in line(extra_env={"HTTPS_PROXY": "x"})
    assert "no variable" in line(extra_env={"a b": "x"})
    assert "control character in A" in line(extra_env={"A": "x\ny"})
    assert "no text for A" in line(extra_env={"A": True})
    assert "not a mapping" in line(extra_env="A=b")
    assert "use https_proxy" in line(extra_env={"HTTP_PROXY": "x"})
    assert "more than 64 KiB" in line(extra_env={"A": "x" * 40_000, "B": "é" * 20_000})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("https_proxy", "user:hunter2@proxy"),
        ("extra_env", {"A": "hunter2\n"}),
        ("registry_url", "https://me:hunter2@registry.example.org"),
        ("engine_url", "https://host/x?token=hunter2"),
        ("mirror_url", "http://me:hunter2@10.0.0.9:5080"),
        ("driver_repository_url", "https://me:hunter2@host/x"),
        ("registry_login_command", "echo me:hunter2\n"),
        (
            "model_sources",
            {"deepseek-r1:14b": {"url": "https://me:hf_hunter2@h/x", "sha256": "ab" * 32}},
        ),
        (
            "model_sources",
            {"deepseek-r1:14b": {"url": "https://h/x?token=hunter2", "sha256": "ab" * 32}},
        ),
    ],
)
def test_what_may_be_secret_is_refused_and_not_repeated(key: str, value: object) -> None:
    assert "hunter2" not in line(**{key: value})


@pytest.mark.parametrize("more", [{"pull_via": "api"}, {"ollama_no_cloud": False}])
def test_a_proxys_login_is_refused_where_the_engine_would_need_it(more: dict[str, Any]) -> None:
    """The engine writes its proxy into its journal."""
    told = line(https_proxy="http://me:hunter2@proxy:3128", **more)
    assert "login" in told
    assert "hunter2" not in told
    taken(https_proxy="http://proxy:3128", **more)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("port", "80", "is not a whole number, got '80'"),
        ("port", 70000, "use at most 65535"),
        ("driver_branch", True, "give a whole number"),
        ("driver_min_version", "latest", "give it as 580.95.05"),
        ("driver_stop_others", "a b", "name processes or units"),
        ("driver_stop_others", 5, "give a list"),
        ("ollama_max_queue", True, "give a whole number such as 512"),
        ("driver_branch", "580", "is not a whole number"),
        ("ollama_noprune", "true", "give True or False"),
        ("ollama_num_parallel", 0, "use at least 1"),
        ("ollama_debug", 3, "use at most 2"),
        ("tokens_per_s_min", "abc", "is not a number"),
        ("tokens_per_s_min", float("nan"), "tokens_per_s_min: "),
        ("no_gpu", "maybe", "use 'refuse' or 'cpu'"),
        ("ollama_kv_cache_type", "q5_1", "use 'f16', 'q8_0' or 'q4_0'"),
        ("engine_version", "latest", "give it as 0.32.15"),
        ("engine_sha256", "ABC", "64 hex digits"),
        ("pull_rate_limit", "20MB", "such as 20M"),
        ("pull_rate_limit", 1.5, "is not a text"),
        ("registry_url", "host:5000", "plain http(s) URL"),
        ("engine_url", "https://host/a b", "plain http(s) URL"),
        ("https_proxy", "proxy", "http://host:port"),
        ("model", "deepseek-r1:14b", "without tag"),
        ("model_digests", {"14b": "x"}, "names no tag"),
        ("model_digests", {"deepseek-r1:14b": "x"}, "has no digest for deepseek-r1:14b"),
        ("smoke_prompt", "a\nb", "one line"),
        ("tag", "13b", "nearest: "),
        ("tag", "14b-qwen-distill-q8", "14b-qwen-distill-q8_0"),
        ("cpu_largest_tag", None, "is not a text"),
        ("ollama_context_length", 10**9, "use at most 131072"),
        ("placement", "gpus", "use 'gpu', 'offload' or 'cpu'"),
        ("offload_min_percent", 101, "use at most 100"),
        ("vram_reserve_mib", -1, "use at least 0"),
        ("size_order", [], "is empty"),
        ("size_order", ["14b", "13b"], "has an unknown name '13b', got ['14b', '13b']; nearest: "),
        ("quantisations", ["q4_k_m"], "nearest: q4_K_M"),
        ("kv_cache_types", ["f16", "f16"], "names something twice"),
        ("kv_cache_types", 8, "is not a list of names"),
        ("extra_models", ["nomic-embed"], "nomic-embed-text"),
    ],
)
def test_wrong_values(key: str, value: object, words: str) -> None:
    assert words in line(**{key: value})


def test_data_from_the_command_line_come_as_numbers() -> None:
    settings = taken(pull_rate_limit=1000000, tokens_per_s_min=5, ollama_debug=True)
    assert settings.pull_rate_limit == "1000000"
    assert (settings.tokens_per_s_min, settings.ollama_debug) == (5.0, 1)


def test_lists_of_names_come_as_lists_or_comma_lists() -> None:
    assert taken(size_order="14b, 8b").size_order == ("14b", "8b")
    assert taken(kv_cache_types=["q8_0"]).kv_cache_types == ("q8_0",)
    assert taken(extra_models="deepseek-r1:1.5b,bge-m3").extra_models[1] == "bge-m3"
    assert taken(extra_models=[]).extra_models == ()


def test_fields_that_must_agree() -> None:
    assert line(context_min=40000) == (
        "context_max: is below context_min (40000), got 32768; raise it or lower context_min"
    )
    assert taken(context_min=40000, ollama_context_length=8192).ollama_context_length == 8192
    assert "needs flash attention" in line(kv_cache_types="q8_0", ollama_flash_attention=False)
    assert "q8_0 cache" in line(ollama_kv_cache_type="q8_0", ollama_flash_attention=False)


def test_unknown_keys_name_the_nearest() -> None:
    assert line(olama_host="x") == "unknown setting 'olama_host', did you mean 'ollama_host'?"
    assert "group_data/all.py" in line(zzz=1)


def test_keys_of_pyinfra_are_passed_over() -> None:
    data = {"ssh_user": "root", "ssh_known_hosts_file": "x", "_sudo": True, "docker_platform": "x"}
    assert read("t4", data) == Settings()
    assert "ssh_usr" in line(ssh_usr="root")


def test_all_faults_of_all_hosts_come_at_once() -> None:
    faulty = {"olama_host": 1, "context_min": "x", "tag": "13b"}
    hosts: dict[str, dict[str, object]] = {name: dict(faulty) for name in ("t4", "duo", "a", "b")}
    hosts |= {"fine": {}, "old": {"port": 0}}
    with pytest.raises(SettingsError) as caught:
        read_all(hosts)
    lines = caught.value.lines
    assert len(lines) == 4
    assert sum(text.startswith("t4, duo and 2 more: ") for text in lines) == 3
    assert "old: port: is out of range, got 0; use at least 1" in lines
    assert "pydantic" not in str(caught.value)
    assert not re.search(r"Traceback|For further information", str(caught.value))


def test_all_hosts() -> None:
    found = read_all({"a": {"tag": "14b"}, "b": {"ssh_user": "ops"}})
    assert (found["a"].tag, found["b"].tag) == ("14b", None)
