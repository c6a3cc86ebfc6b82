"""What the engine of a host should be: its environment, its unit, its archive."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1fleet import decide
from r1fleet.engine import wanted
from r1fleet.settings import Settings
from r1fleet.sizing import Choice
from r1fleet.templates import env_quote, render
from tests.unit.build import bare, working

DUO = bare("RTX 4090", "RTX 4090", driver=working("RTX 4090", "RTX 4090"))
T4 = bare("T4", driver=working("T4"))


def choice(probe: object = T4, **changes: object) -> Choice:
    return replace(decide.size(Settings(), probe).sizing.chosen, **changes)  # type: ignore[arg-type]


def environment(settings: Settings, chosen: Choice, probe: object = T4) -> dict[str, str]:
    return dict(wanted.variables(settings, chosen, probe))  # type: ignore[arg-type]


def test_context_parallel_and_cache_type_are_always_written() -> None:
    found = environment(Settings(), choice())
    assert found["OLLAMA_CONTEXT_LENGTH"] == str(choice().context)
    assert found["OLLAMA_NUM_PARALLEL"] == "1"
    assert found["OLLAMA_KV_CACHE_TYPE"] in ("f16", "q8_0")
    assert found["OLLAMA_KEEP_ALIVE"] == "-1"


def test_spreading_is_written_only_where_the_plan_uses_more_than_one_card() -> None:
    assert environment(Settings(), choice(DUO), DUO)["OLLAMA_SCHED_SPREAD"] == "1"
    assert "OLLAMA_SCHED_SPREAD" not in environment(Settings(), choice())


def test_cards_that_ollama_should_not_take_are_hidden_from_it() -> None:
    chosen = choice(DUO, gpus=(1,), only_these_gpus=True, sched_spread=False)
    assert environment(Settings(), chosen, DUO)["CUDA_VISIBLE_DEVICES"] == "GPU-1"


def test_a_mig_instance_is_named_and_a_cpu_placement_hides_all_cards() -> None:
    part = choice(mig_uuid="MIG-a", only_these_gpus=True)
    assert environment(Settings(), part)["CUDA_VISIBLE_DEVICES"] == "MIG-a"
    on_cpu = choice(placement="cpu", gpus=(), only_these_gpus=True)
    assert environment(Settings(), on_cpu)["CUDA_VISIBLE_DEVICES"] == "-1"


def test_extra_models_may_be_loaded_beside_the_planned_one() -> None:
    assert environment(Settings(), choice())["OLLAMA_MAX_LOADED_MODELS"] == "1"
    two = Settings(extra_models=["nomic-embed-text"])
    assert environment(two, choice())["OLLAMA_MAX_LOADED_MODELS"] == "2"
    given_number = Settings(extra_models=["nomic-embed-text"], ollama_max_loaded_models=5)
    assert environment(given_number, choice())["OLLAMA_MAX_LOADED_MODELS"] == "5"


def test_with_offload_llama_cpp_is_told_what_to_leave_free() -> None:
    settings = Settings(placement="offload", vram_reserve_mib=700)
    split = choice(placement="offload")
    assert environment(settings, split)["LLAMA_ARG_FIT_TARGET"] == "1724"
    assert "LLAMA_ARG_FIT_TARGET" not in environment(settings, choice())


def test_settings_reach_the_environment_in_ollamas_own_form() -> None:
    settings = Settings(
        ollama_host="0.0.0.0",
        expose="open",
        expose_unauthenticated="yes-i-know",
        port=11500,
        ollama_origins=["https://ui.example.org", "https://x.example.org"],
        ollama_keep_alive="5m",
        ollama_debug=True,
        https_proxy="http://proxy:3128",
        extra_env={"LLAMA_ARG_THREADS": "8"},
    )
    found = environment(settings, choice())
    assert found["OLLAMA_HOST"] == "0.0.0.0:11500"
    assert found["OLLAMA_ORIGINS"] == "https://ui.example.org,https://x.example.org"
    assert found["OLLAMA_KEEP_ALIVE"] == "5m"
    assert found["OLLAMA_DEBUG"] == "1"
    assert found["HTTPS_PROXY"] == "http://proxy:3128"
    assert found["LLAMA_ARG_THREADS"] == "8"


def test_the_engine_which_logs_its_proxy_never_hears_of_its_login() -> None:
    settings = Settings(https_proxy="http://user:p%40ss@proxy:3128")
    assert "p%40ss" not in str(environment(settings, choice()))
    assert settings.proxies["https_proxy"] == "http://user:p%40ss@proxy:3128"  # for downloads


def test_further_variables_come_as_they_are_also_empty_and_before_what_is_planned() -> None:
    found = environment(Settings(extra_env={"A": "", "CUDA_VISIBLE_DEVICES": "0"}), choice())
    assert found["A"] == ""
    assert found["CUDA_VISIBLE_DEVICES"] == "0"


def test_the_environment_file_is_not_for_everybody() -> None:
    files = {file.path: file for file in wanted.engine(Settings(), choice(), T4).files}
    environment_file = files["/etc/r1fleet/ollama.env"]
    assert (environment_file.mode, environment_file.owner) == ("640", "root:ollama")


def test_the_unit_waits_for_as_many_gpus_as_the_host_has() -> None:
    unit = {file.path: file.content for file in wanted.engine(Settings(), choice(DUO), DUO).files}
    assert "wait-for-gpus 2\n" in unit["/etc/systemd/system/ollama.service"]
    on_cpu = wanted.engine(Settings(), choice(placement="cpu"), T4)
    assert not any("wait-for-gpus 1" in file.content for file in on_cpu.files)


def test_another_driver_means_another_environment_file_and_so_a_restart() -> None:
    newer = bare("T4", driver=working("T4", version="595.45.04"))
    first = wanted.engine(Settings(), choice(), T4).files[0]
    assert first.sha256 != wanted.engine(Settings(), choice(), newer).files[0].sha256


def test_the_archive_is_named_by_version_and_hash() -> None:
    pinned = wanted.archive(Settings(engine_sha256="ab" * 32), "aarch64")
    assert pinned.url.endswith("/v0.32.15/ollama-linux-arm64.tar.zst")
    assert pinned.key == "0.32.15-abababababab"
    assert wanted.archive(Settings(), "x86_64").key == "0.32.15"


@pytest.mark.parametrize(("text", "value"), [("-1", -1), ("300", 300), ("5m", "5m")])
def test_keep_alive_in_a_request_is_a_number_or_a_duration(text: str, value: object) -> None:
    assert wanted.keep_alive_json(text) == value


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"))))
def test_a_quoted_value_reads_back_as_it_was(value: str) -> None:
    """As systemd reads it: in double quotes a backslash takes ", \\, $ and ` literally."""
    quoted = env_quote(value)
    assert (quoted[0], quoted[-1]) == ('"', '"')
    assert re.fullmatch(r'(?:[^"\\$`]|\\["\\$`])*', quoted[1:-1])
    assert re.sub(r'\\(["\\$`])', r"\1", quoted[1:-1]) == value


@pytest.mark.parametrize("value", ["a\nb", "a\x00b", "\x1b[0m"])
def test_control_characters_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="control character"):
        env_quote(value)


def test_a_template_never_renders_a_missing_value() -> None:
    with pytest.raises(Exception, match="undefined"):
        render("ollama.service")
