"""Which test runs each command of the pages, by the command's shape (tests/pages.py).

A new command in a page needs a row here, or to say "not run by tests" in the page.
"""

from tests import pages

LOOKS = "tests/lab/test_docs.py::test_commands_that_change_nothing"
LABS = "tests/lab/test_docs.py::test_the_labs_own_commands"
CHECKS = "tests/lab/test_docs.py::test_how_to_check_that_nobody_reaches_the_engine"
SHARED = "tests/lab/test_gateway.py::test_the_pages_commands_show_what_they_say"
SHELLS = "tests/unit/test_docs.py::test_shells_complete_commands_and_options"
TOKENS = "tests/lab/test_gateway.py::test_tokens_change_without_a_lost_request"
INIT = "tests/lab/test_install.py::test_init_writes_a_directory_and_shows_the_plan"
CANARY = "tests/lab/test_waves.py::test_a_wrong_change_stops_at_the_canary"
ROLLOUT = "tests/fleet/test_rollout.py::test_a_tag_with_a_wrong_answer_reaches_the_canary_alone"
BUNDLE = "tests/lab/test_bundle.py::test_bare_to_proven_with_not_one_byte_from_outside"
OFF = "tests/lab/test_trouble.py::test_a_host_that_is_down_is_named_and_the_others_are_done"
POWER = "tests/lab/test_trouble.py::test_a_power_cut_host_answers_from_the_gpu_by_itself"
FAULT = "tests/lab/test_trouble.py::test_a_registry_that_answers_500"
HOST_FAULT = "tests/lab/conftest.py::fault"
LOCK = (
    "tests/lab/test_delivery.py::test_a_lock_refuses_before_any_change_and_finds_what_was_retagged"
)
CLIENTS = "tests/lab/test_clients.py::test_the_page_about_clients_says_what_works"
MIRROR = "tests/lab/test_mirror.py::test_a_cold_model_and_the_engine_cross_once_for_all"

RUN_BY: dict[str, tuple[str, ...]] = {
    "pyinfra deploy.py -y": ("tests/lab/conftest.py::served",),
    "pyinfra deploy.py --data report -y": ("tests/lab/conftest.py::served", LOOKS),
    "pyinfra deploy.py --data bundle -y": (BUNDLE,),
    "pyinfra deploy.py --data rollout_canary --data tag -y": (CANARY, ROLLOUT),
    "pyinfra deploy.py --dry": (LOOKS,),
    "pyinfra deploy.py --data tag --dry": (LOOKS,),
    "pyinfra rollback.py -y": ("tests/lab/test_rollback.py::test_back_by_hand",),
    "pyinfra rollback.py --data to -y": ("tests/lab/test_docs.py::test_a_way_back_to_a_day",),
    "r1fleet ask": (LOOKS,),
    "r1fleet bundle": (BUNDLE,),
    "r1fleet doctor": (LOOKS,),
    "r1fleet doctor --record": (LOOKS,),
    "r1fleet fit --gpu --ram": (LOOKS,),
    "r1fleet init --dir": (INIT,),
    "r1fleet lock": (LOOKS,),
    "r1fleet lock --from-host": (LOCK,),
    "r1fleet lock --registry-url": (LOOKS,),
    "r1fleet plan -v": (LOOKS,),
    "r1fleet report -o": (LOOKS,),
    "r1fleet status": (LOOKS,),
    "r1fleet tunnel": (CLIENTS,),
    "r1fleet why": (LOOKS,),
    "r1fleet token new": (TOKENS,),
    "r1fleet token list": ("tests/unit/test_gateway_tokens.py::test_list_shows_no_secret",),
    "r1fleet token revoke --old": (TOKENS,),
    "r1fleet lab status": (LABS,),
    "r1fleet lab ssh": (LABS,),
    "r1fleet lab wan": (LABS,),
    "r1fleet lab reset": (LABS,),
    "r1fleet lab stop": (OFF,),
    "r1fleet lab cycle": (POWER,),
    "r1fleet lab fault": (FAULT,),
    "r1fleet lab fault --host": (HOST_FAULT,),
    "r1fleet lab publish --mb": (MIRROR,),
    # The lines that are run as they stand, but for names of hosts and inventories:
    'eval "$(_R1FLEET_COMPLETE=bash_source r1fleet)"': (SHELLS,),
    'eval "$(_R1FLEET_COMPLETE=zsh_source r1fleet)"': (SHELLS,),
    "_R1FLEET_COMPLETE=fish_source r1fleet | source": (SHELLS,),
    "curl -s http://127.0.0.1:11434/api/chat -d"
    """ '{"model": "deepseek-r1:fleet", "stream": false,"""
    """ "messages": [{"role": "user", "content": "Hello"}]}'""": (CLIENTS,),
    "ss -ltnp | grep -E ':(11434|11443) '": (CHECKS,),
    "curl -m 5 http://HOST:11434/api/version": (CHECKS,),
    "systemd-analyze security ollama.service": (CHECKS,),
    "ssh gpu1 sudo cat /var/lib/r1fleet-gateway/caddy/pki/authorities/local/root.crt > root.crt": (
        SHARED,
    ),
    'curl --cacert root.crt -H "Authorization: Bearer $TOKEN" https://gpu1:11443/api/tags': (
        SHARED,
    ),
    "curl -k -m 5 https://HOST:11443/api/tags": (SHARED,),
    "systemd-analyze security r1fleet-gateway.service": (SHARED,),
    "stat -c '%a %U:%G %n' /etc/r1fleet/ollama.env /etc/r1fleet/gateway/tokens"
    " /var/lib/r1fleet/served": (SHARED,),
    "journalctl -o export | grep -c r1f_": (SHARED,),
}


def given_to(test: str) -> list[pages.Command]:
    """The commands that a test is to run as they stand, each once."""
    found = {each.text: each for each in pages.commands() if test in RUN_BY.get(each.shape, ())}
    return list(found.values())
