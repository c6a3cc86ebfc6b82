"""What the judge makes of answers and probes, and how long a proof stands."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from r1fleet.hostfacts import ComputeProcess, LoadedModel, Probe, Unit
from r1fleet.verify.fingerprint import fingerprint, is_fresh, remembered, state, verified_entry
from r1fleet.verify.judge import SmokeWanted, Verdict, check_loaded, judge, needs_load, parse
from tests.unit.build import bare, working

DIGEST = "sha256:" + "c3" * 32
AT = "2026-11-23T22:00:00+00:00"
ENGINE = "/opt/ollama/0.32.15-abc/lib/ollama/llama-server"
WANT = SmokeWanted(
    base_url="http://127.0.0.1:11434",
    model="deepseek-r1:14b",
    digest=DIGEST,
    placement="gpu",
    context=32768,
    keep_alive="-1",
    prompt="Say READY.",
    expect="ready",
    tokens_per_s_min=10,
    load_time_max_s=60,
)
LOAD = {"done_reason": "load", "load_duration": 4_200_000_000}
CHAT = {
    "message": {"role": "assistant", "content": "READY", "thinking": "one word"},
    "eval_count": 80,
    "eval_duration": 2_000_000_000,
}
DELTAS = [{"reasoning": "one "}, {"reasoning": "word"}, {"content": "REA"}, {"content": "DY"}]
ROW = {
    "name": "deepseek-r1:14b",
    "digest": "c3" * 32,
    "size": 19_800_000_000,
    "size_vram": 19_800_000_000,
    "context_length": 32768,
}


def sse(deltas: list[dict[str, str]], end: str = "data: [DONE]") -> str:
    lines = [f"data: {json.dumps({'choices': [{'delta': delta}]})}" for delta in deltas]
    return "\n\n".join([*lines, end])


def answers(
    load: str = f"200 4.3\n{json.dumps(LOAD)}",
    chat: str = f"200 2.1\n{json.dumps(CHAT)}",
    stream: str = f"200 2.0\n{sse(DELTAS)}",
    rows: list[dict[str, Any]] | None = None,
    compute: str = f"4711, {ENGINE}, 18000",
    preload: str = "",
    engine: str = "",
) -> str:
    ps = json.dumps({"models": [ROW] if rows is None else rows})
    return (
        f"@@preload\n{preload}\n@@load\n{load}\n@@chat\n{chat}\n@@stream\n{stream}\n"
        f"@@ps\n200 0.1\n{ps}\n"
        f"@@compute\n{compute}\n@@engine\n{engine}\n@@end\n"
    )


def verdict(want: SmokeWanted = WANT, **parts: Any) -> Verdict:
    return judge(want, parse(answers(**parts)), AT)


def faults(want: SmokeWanted = WANT, **parts: Any) -> list[str]:
    return [str(fault) for fault in verdict(want, **parts).faults]


def chat(**message: str) -> str:
    return f"200 2.1\n{json.dumps(CHAT | {'message': message})}"


def test_a_good_host() -> None:
    found = verdict()
    assert found.faults == ()
    assert found.smoke
    assert found.smoke.answer == "READY"
    assert found.smoke.thinking == "one word"
    assert found.smoke.tokens_per_s == 40.0
    assert found.smoke.load_s == 4.2
    assert found.smoke.residency == 1.0
    assert found.smoke.context == 32768
    assert found.smoke.digest == DIGEST


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"chat": chat(content="BUSY", thinking="x")}, "answer by /api/chat is 'BUSY'"),
        ({"chat": chat(content="", thinking="x")}, "answer by /api/chat is nothing"),
        ({"chat": chat(content="READY")}, "no thinking part in the answer by /api/chat"),
        ({"stream": f"200 1\n{sse(DELTAS[:2])}"}, "answer by /v1/chat/completions is nothing"),
        ({"stream": f"200 1\n{sse(DELTAS[2:])}"}, "no thinking part in the answer by /v1"),
        (
            {"stream": f"200 1\n{sse([{'reasoning': 'x', 'content': 'READY'}])}"},
            "did not stream, all came in one piece",
        ),
        ({"stream": f"200 1\n{sse(DELTAS, end='')}"}, "broke off"),
        (
            {"stream": '503 1\n{"error":{"message":"server busy","type":"x"}}'},
            "/v1/chat/completions failed: HTTP 503, server busy",
        ),
        ({"chat": '500 1\n{"error":"out of memory"}'}, "smoke prompt failed: HTTP 500, out of"),
        (
            {"load": "000 60.0\n\ncurl: (28) Operation timed out"},
            "loading the model failed: curl: (28) Operation timed out",
        ),
        (
            {"load": '404 0.1\n{"error":"model \'x\' not found"}'},
            "loading the model failed: HTTP 404, model 'x' not found",
        ),
        (
            {"rows": [ROW | {"size_vram": 12_100_000_000}]},
            "answers from the CPU: 61 % of the model is in VRAM (size_vram 12.1 of 19.8 GB);"
            " lower context_max",
        ),
        ({"rows": [ROW | {"size_vram": 0}]}, "answers from the CPU: nothing of the model"),
        ({"rows": [ROW | {"context_length": 4096}]}, "context is 4096 tokens, planned are 32768"),
        ({"rows": []}, "is not loaded after it answered (loaded: nothing)"),
        ({"rows": [ROW | {"digest": "d" * 64}]}, "(loaded: deepseek-r1:14b dddddddddddd)"),
        ({"compute": ""}, "nvidia-smi shows no llama-server"),
        ({"compute": "1, /usr/bin/Xorg, 100"}, "nvidia-smi shows no llama-server"),
    ],
)
def test_one_fault_each(parts: dict[str, Any], says: str) -> None:
    found = faults(**parts)
    assert len(found) == 1, found
    assert says in found[0]
    assert "; " in found[0]


def test_limits_of_speed_and_load_time() -> None:
    slow = replace(WANT, tokens_per_s_min=41, load_time_max_s=4)
    assert [text.partition(";")[0] for text in faults(slow)] == [
        "40.0 tokens/s, tokens_per_s_min is 41",
        "loading took 4 s, load_time_max_s is 4",
    ]
    assert faults(replace(WANT, tokens_per_s_min=0)) == []


def test_a_model_that_was_there_already_took_as_long_as_its_preload() -> None:
    told = verdict(
        replace(WANT, load_time_max_s=60),
        load=f"200 0.1\n{json.dumps({'done_reason': 'load'})}",
        preload=json.dumps(LOAD | {"load_duration": 90_000_000_000}),
    )
    assert told.smoke
    assert told.smoke.load_s == 90
    assert [fault.what for fault in told.faults] == ["loading took 90 s, load_time_max_s is 60"]


def test_the_cause_comes_before_its_effects() -> None:
    found = faults(
        replace(WANT, tokens_per_s_min=100), rows=[ROW | {"size_vram": 1}], chat=chat(content="no")
    )
    assert len(found) == 4
    assert found[0].startswith("answers from the CPU")


def test_a_host_placed_on_the_cpu_needs_no_gpu() -> None:
    on_cpu = replace(WANT, placement="cpu")
    assert faults(on_cpu, rows=[ROW | {"size_vram": 0}], compute="") == []


FOUND = (
    'level=INFO source=types.go:32 msg="inference compute" id={id} library={library} compute=8.9'
)


@pytest.mark.parametrize(
    ("libraries", "wanted", "fault"),
    [
        (["CUDA", "CUDA"], 2, None),
        (["CUDA"], 2, "Ollama found 1 of 2 GPUs at its start"),
        (["cpu"], 1, "Ollama found 0 of 1 GPUs at its start"),
        ([], 2, None),  # its journal was rotated away: nothing is known
        (["cpu"], None, None),
    ],
)
def test_the_engine_has_to_find_every_gpu(
    libraries: list[str], wanted: int | None, fault: str | None
) -> None:
    lines = [FOUND.format(id=i, library=library) for i, library in enumerate(libraries)]
    found = judge(replace(WANT, gpus=wanted), parse(answers(engine="\n".join(lines))), AT).faults
    assert [one.what for one in found] == ([fault] if fault else [])


def test_a_cut_answer_is_no_verdict() -> None:
    with pytest.raises(ValueError, match="compute, engine, end"):
        parse(answers().partition("@@compute")[0])


def probe(**changes: Any) -> Probe:
    plain = bare(
        "T4",
        driver=working("T4", processes=(ComputeProcess(4711, ENGINE, 18000),)),
        units={"ollama.service": Unit(invocation="one")},
        engine_current="0.32.15-abc",
        files={"/etc/r1fleet/ollama.env": "1", "/etc/systemd/system/ollama.service": "2"},
        loaded=(LoadedModel("deepseek-r1:14b", "c3" * 32, 100, 100, 32768),),
    )
    return replace(plain, **changes)


def test_every_run_looks_at_what_is_loaded() -> None:
    split = LoadedModel("deepseek-r1:14b", "c3" * 32, 100, 61, 32768)
    bare = replace(probe().driver, processes=())
    assert check_loaded(probe(), DIGEST, "gpu") is None
    assert "61 %" in str(check_loaded(probe(loaded=(split,)), DIGEST, "gpu"))
    assert check_loaded(probe(loaded=(split,)), DIGEST, "cpu") is None
    assert "llama-server" in str(check_loaded(probe(driver=bare), DIGEST, "gpu"))
    # A client may have had it swapped since; the smoke prompt that follows looks again.
    assert check_loaded(probe(driver=bare), DIGEST, "gpu", processes=False) is None
    assert check_loaded(probe(loaded=(split,)), DIGEST, "gpu", processes=False)
    assert check_loaded(probe(loaded=()), DIGEST, "gpu") is None


def test_only_a_model_that_stays_for_ever_must_be_loaded() -> None:
    assert needs_load(probe(loaded=()), DIGEST, "-1")
    assert not needs_load(probe(loaded=()), DIGEST, "5m")
    assert not needs_load(probe(), DIGEST, "-1")


@pytest.mark.parametrize(
    "changes",
    [
        {"boot_id": "another"},
        {"units": {"ollama.service": Unit(invocation="two")}},
        {"engine_current": "0.32.16-def"},
        {"driver": replace(probe().driver, loaded="580.105.08")},
        {"files": {**probe().files, "/etc/r1fleet/ollama.env": "3"}},
    ],
)
def test_a_proof_falls_with_what_it_rests_on(changes: dict[str, Any]) -> None:
    assert fingerprint(probe(), WANT) == fingerprint(probe(), WANT)
    assert fingerprint(probe(**changes), WANT) != fingerprint(probe(), WANT)


def test_a_proof_falls_with_its_digest_prompt_and_limits() -> None:
    assert fingerprint(probe(), replace(WANT, tokens_per_s_min=11)) != fingerprint(probe(), WANT)
    assert fingerprint(probe(), replace(WANT, prompt="Say GO.")) != fingerprint(probe(), WANT)


def test_a_proof_is_remembered_for_its_time() -> None:
    smoke = verdict().smoke
    assert smoke
    record = json.loads(
        json.dumps(state({}, {}, verified_entry(smoke, "stamp", "r1:14b", "s"), ("/m", "/")))
    )
    now = datetime.fromisoformat(AT).astimezone(UTC)
    assert is_fresh(record, "stamp", now + timedelta(seconds=59), 60)
    assert not is_fresh(record, "stamp", now + timedelta(seconds=61), 60)
    assert not is_fresh(record, "stamp", now - timedelta(seconds=1), 60)  # the clock was set back
    assert not is_fresh(record, "other", now, 60)
    assert remembered(record) == smoke


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"verified": None},
        {"verified": {"fingerprint": "stamp"}},
        {"verified": {"fingerprint": "stamp", "at": "2026-11-23T22:00:00"}},
    ],
)
def test_a_damaged_record_proves_nothing(record: dict[str, Any]) -> None:
    assert not is_fresh(record, "stamp", datetime.now(UTC), 1e9)
    assert remembered(record) is None
