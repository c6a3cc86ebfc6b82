"""The name that clients ask for: it answers at every moment, and only from what was proven."""

import json
from pathlib import Path

import pytest

from tests.lab.conftest import READY, Lab, Run, seen
from tests.lab.variants import published

pytestmark = pytest.mark.lab

HOST = "t4"
ALIAS = "deepseek-r1:fleet"
OTHER_TAG = "14b-qwen-distill-q4_K_M"  # another name, the size that the host has
QUESTION = {"messages": [{"role": "user", "content": "Reply with one word"}], "stream": False}

# One request a second by the alias, until the file goes away or for 120 of them. Each writes its
# line in one go; behind the last one the other file comes.
CLIENT = """
rm -f /run/r1test-over; touch /run/r1test-client
nohup sh -c 'i=0; while [ -e /run/r1test-client ] && [ $i -lt 120 ]; do i=$((i + 1))
told=$(curl -s -m 60 -o /run/r1test-answer -w "%{http_code} %{time_total}" -d @/run/r1test-ask \\
  127.0.0.1:11434/api/chat)
printf "%s %s\\n" "$told" "$(grep -c READY /run/r1test-answer)"; sleep 1; done
touch /run/r1test-over' >/run/r1test-log 2>&1 </dev/null &
"""


def digests(lab: Lab) -> dict[str, str]:
    return {row["name"]: row["digest"] for row in lab.api(HOST, "/api/tags")["models"]}


def answer(lab: Lab) -> str:
    return str(lab.api(HOST, "/api/chat", {"model": ALIAS, **QUESTION})["message"]["content"])


def runners(lab: Lab) -> list[str]:
    """The ports of the llama-server processes."""
    found = lab.on(HOST, "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -A1 -x -e --port")
    return sorted({line for line in found.splitlines() if line.isdigit()})


def test_every_host_answers_by_the_alias_from_the_model_that_is_loaded(
    lab: Lab, served: Run
) -> None:
    for host in lab.hosts:
        body = {"model": ALIAS, **QUESTION}
        assert "READY" in lab.api(host, "/api/chat", body)["message"]["content"]
        (loaded,) = lab.api(host, "/api/ps")["models"]
        assert loaded["name"] == f"deepseek-r1:{served.row(host)['tag']}"
        folder = "/var/lib/ollama/models/manifests/registry.ollama.ai/library/deepseek-r1"
        lab.on(host, f"cmp {folder}/fleet {folder}/{served.row(host)['tag']}")


def test_a_new_tag_takes_over_without_one_failed_request(
    lab: Lab, served: Run, tmp_path: Path
) -> None:
    before = digests(lab)
    ask = json.dumps({"model": ALIAS, **QUESTION})
    lab.on(HOST, f"echo '{ask}' >/run/r1test-ask; {CLIENT}")
    golden = tmp_path / "golden.yaml"
    golden.write_text(
        "prompts:\n- name: one word\n  prompt: Reply with one word\n"
        "  check: {pattern: READY, thinking_chars_min: 5}\n"
        "- name: never\n  prompt: Reply with one word\n  check: {json: {word: text}}\n"
    )
    with published(lab, tmp_path, OTHER_TAG) as flags:
        tag = ("--data", f"tag={OTHER_TAG}", "--data", f"golden={golden}")
        run = lab.deploy("--limit", HOST, *tag, *flags)
    lab.on(HOST, "sleep 3; rm /run/r1test-client")
    assert seen(lambda: lab.on(HOST, "ls /run/r1test-over", ok=False), limit_s=120)
    log = lab.on(HOST, "cat /run/r1test-log").splitlines()
    assert run.code == 0, run.output
    assert len(log) >= 5
    assert {(line.split()[0], line.split()[2]) for line in log} == {("200", "1")}, log
    print(f"longest wait {max(float(line.split()[1]) for line in log):.2f} s")

    after = digests(lab)
    assert after[ALIAS] == after[f"deepseek-r1:{OTHER_TAG}"] not in before.values()
    assert after["deepseek-r1:14b"] == before["deepseek-r1:14b"]  # stays for a way back
    first, second = run.row(HOST)["golden"]
    assert (first["old"]["failed"], first["new"]["failed"]) == (None, None)
    assert second["verdict"] == "as before"
    assert second["new"]["failed"]

    run = lab.deploy("--limit", HOST, "--data", "keep_tags=0")
    assert run.code == 0, run.output
    after = digests(lab)
    assert f"deepseek-r1:{OTHER_TAG}" not in after  # r1fleet brought it, and keeps none now
    assert all(after[name] == before[name] for name in (ALIAS, "deepseek-r1:14b"))
    assert set(lab.deploy("--limit", HOST).verdicts().values()) <= {"as wanted", "unreachable"}


def test_a_model_that_fails_a_golden_prompt_gets_no_alias(
    lab: Lab, served: Run, tmp_path: Path
) -> None:
    before = digests(lab)
    golden = tmp_path / "golden.yaml"
    golden.write_text("prompts: [{name: exact, prompt: hi, check: {pattern: '^READY$'}}]\n")
    with published(lab, tmp_path, OTHER_TAG, answer="READYX") as flags:
        tag = ("--data", f"tag={OTHER_TAG}", "--data", f"golden={golden}")
        run = lab.deploy("--limit", HOST, *tag, *flags)
    assert run.code == 1
    assert (run.verdicts()[HOST], run.row(HOST)["tag"]) == ("rolled back", "14b")
    assert "'exact' passed before and fails now" in run.row(HOST)["reason"]
    assert digests(lab)[ALIAS] == before[ALIAS]
    assert answer(lab) == "READY"
    body = json.dumps({"model": f"deepseek-r1:{OTHER_TAG}"})
    lab.on(HOST, f"curl -sS -X DELETE -d '{body}' 127.0.0.1:11434/api/delete")
    assert lab.deploy("--limit", HOST).verdicts()[HOST] == "as wanted"


def test_system_prompt_and_parameters_as_ollama_itself_would_render_them(
    lab: Lab, served: Run
) -> None:
    system, parameters = 'You are "Fleet" <3\nBe brief.', {"temperature": 0.5, "seed": 7}
    before = digests(lab)
    data = [f"alias_system={system}", f"alias_parameters={json.dumps(parameters)}"]
    run = lab.deploy("--limit", HOST, *(word for one in data for word in ("--data", one)))
    assert run.code == 0, run.output
    assert digests(lab)[ALIAS] != digests(lab)["deepseek-r1:14b"]
    body = {"model": "by-hand:x", "from": "deepseek-r1:14b", "stream": False}
    lab.api(HOST, "/api/create", {**body, "system": system, "parameters": parameters})
    home = "/var/lib/ollama/models/manifests/registry.ollama.ai/library"
    ours = json.loads(lab.on(HOST, f"cat {home}/deepseek-r1/fleet"))
    theirs = json.loads(lab.on(HOST, f"cat {home}/by-hand/x; rm -r {home}/by-hand"))
    made, known = ({(x["mediaType"], x["digest"]) for x in one["layers"]} for one in (ours, theirs))
    assert made == known
    blob = f"/var/lib/ollama/models/blobs/{ours['config']['digest'].replace(':', '-')}"
    config = json.loads(lab.on(HOST, f"cat {blob}"))
    assert set(config["rootfs"]["diff_ids"]) == {digest for _, digest in made}

    assert "READY" in answer(lab)
    assert lab.api(HOST, "/api/show", {"model": ALIAS})["system"] == system
    (loaded,) = lab.api(HOST, "/api/ps")["models"]
    assert loaded["name"] == "deepseek-r1:14b"
    assert len(runners(lab)) == 1  # the alias has the same weights: no second one is loaded
    # Whoever asks first after a restart gives the row of /api/ps its name.
    lab.on(HOST, "systemctl stop ollama; systemctl mask --runtime -q r1fleet-preload; sleep 1")
    lab.on(HOST, f"systemctl start ollama; {READY}; systemctl unmask --runtime -q r1fleet-preload")
    assert "READY" in answer(lab)
    run = lab.deploy("--limit", HOST, *(word for one in data for word in ("--data", one)))
    assert run.code == 0, run.output
    assert len(runners(lab)) == 1

    run = lab.deploy("--limit", HOST)
    assert run.code == 0, run.output
    assert digests(lab) == before


def test_a_stranger_by_the_name_of_the_alias_is_left_alone(lab: Lab, served: Run) -> None:
    body = {"model": "mine:own", "from": "deepseek-r1:14b", "system": "x", "stream": False}
    lab.api(HOST, "/api/create", body)
    before = digests(lab)
    run = lab.deploy("--limit", HOST, "--data", "alias=mine:own")
    assert run.code == 1
    assert "r1fleet did not make it" in run.row(HOST)["reason"]
    assert digests(lab) == before
    lab.on(HOST, """curl -sS -X DELETE -d '{"model": "mine:own"}' 127.0.0.1:11434/api/delete""")
