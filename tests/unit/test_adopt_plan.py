"""What becomes of an Ollama that is there already, from what the probe says of it."""

import pytest

from r1fleet.adopt import facts, install, plan
from r1fleet.adopt.facts import Existing
from r1fleet.adopt.plan import Plan, Taking
from r1fleet.settings import Settings, read
from tests.unit.build import bare

STORE = """models {0}
owner {1}
near yes
kib 4883000
model registry.ollama.ai/library/deepseek-r1/7b
model registry.ollama.ai/library/other/latest"""
HOLDER = """found port
pid 812
name {name}
user {user}
cgroup {cgroup}
exe {exe}
"""


def found(text: str) -> tuple[Existing, ...]:
    return facts.read(text.splitlines())


def planned(text: str, **settings: object) -> Plan:
    return plan.plan(bare(existing=found(text)), read("pc1", dict(settings)))


def holder(cgroup: str, name: str = "ollama", user: str = "ann", more: str = "") -> str:
    return HOLDER.format(cgroup=cgroup, name=name, user=user, exe="/opt/llm/bin/ollama") + more


def unit(fragment: str, more: str = "", runs: str = "/usr/local/bin/ollama") -> str:
    store = STORE.format("/usr/share/ollama/.ollama/models", 998)
    return f"found unit\nfragment {fragment}\nexec {runs}\npid 9\n{more}\n{store}\n"


OWN_UNIT = "/etc/systemd/system/ollama.service"
MINE = f"{OWN_UNIT}.d/mine.conf"
CONTAINER = """container /ollama
image ollama/ollama
restart always
compose {0}
inner 99
serves {1}
mount /root/.ollama /var/lib/docker/volumes/ollama/_data
"""


def test_nothing_there_is_nothing_to_do() -> None:
    assert planned("") == Plan()


def test_what_install_sh_made_keeps_its_files_aside() -> None:
    (taking,) = planned(unit(OWN_UNIT)).takings
    assert (taking.kind, taking.unit_file, taking.owner) == ("install.sh", OWN_UNIT, 998)
    assert taking.models == "/usr/share/ollama/.ollama/models"
    assert not taking.stays


def test_the_unit_that_holds_the_port_is_one_and_not_two() -> None:
    text = holder("/system.slice/ollama.service") + unit(OWN_UNIT)
    assert [one.kind for one in planned(text).takings] == ["install.sh"]


def test_a_packages_unit_stays_where_it_is() -> None:
    (taking,) = planned(unit("/usr/lib/systemd/system/ollama.service", "package ollama")).takings
    assert (taking.kind, taking.name, taking.unit_file) == ("package", "ollama", "")


@pytest.mark.parametrize(
    ("cgroup", "main", "kind", "name"),
    [
        ("/system.slice/my-llm.service", "812", "service", "my-llm.service"),
        ("/user.slice/user-1000.slice/session-3.scope", "", "process", "ann"),
        ("/system.slice/ssh.service", "700", "process", "ann"),
        ("/user.slice/user-1000.slice/user@1000.service/tmux-spawn-1.scope", "", "process", "ann"),
    ],
)
def test_who_holds_the_port_by_where_it_runs(cgroup: str, main: str, kind: str, name: str) -> None:
    more = f"main {main}\n" + STORE.format("/home/ann/.ollama/models", 1000)
    (taking,) = planned(holder(cgroup, more=more)).takings
    assert (taking.kind, taking.name, taking.pid) == (kind, name, 812)
    assert taking.root == "/opt/llm"
    # What lies in a person's home keeps its name there.
    assert taking.stays == (kind == "process")


def test_a_container_whose_models_are_on_a_volume() -> None:
    more = CONTAINER.format('""', "ollama") + "passing false\n"
    more += STORE.format("/var/lib/docker/volumes/ollama/_data/models", 0)
    (taking,) = planned(
        holder("/system.slice/docker.service", "docker-proxy", "root", more)
    ).takings
    assert (taking.kind, taking.name, taking.restart) == ("docker", "ollama", "always")
    assert (taking.pid, taking.stays) == (99, True)


SESSION = "/user.slice/user-1000.slice/session-3.scope"
PROXY = ("/system.slice/docker.service", "docker-proxy", "root")


@pytest.mark.parametrize(
    ("text", "why", "fix"),
    [
        (
            holder("/system.slice/nginx.service", "nginx", "www-data"),
            "127.0.0.1:11434 is held by nginx (pid 812, user www-data, nginx.service)",
            "stop it, or set another port",
        ),
        (holder(SESSION, more="odd yes\n"), "other characters than", "give it another path"),
        ("found port\n", "held by something that shows no process", "stop it, or"),
        (
            holder("/user.slice/user-1000.slice/user@1000.service/app.slice/ollama.service"),
            "held by ollama.service, a unit of the user ann",
            "as ann: systemctl --user disable --now ollama.service",
        ),
        (
            holder("/machine.slice/libpod-0123.scope"),
            "held by ollama in a container (libpod-0123.scope, pid 812)",
            "stop the container",
        ),
        (
            holder("/system.slice/containerd.service", more="main 700"),
            "held by ollama (pid 812), started by containerd.service",
            "started there no more",
        ),
        (
            holder(*PROXY, more=CONTAINER.format('"chat"', "ollama") + STORE.format("/v", 0)),
            "held by the container ollama, which is part of chat",
            "docker stop ollama, and let the others reach http://127.0.0.1:11434",
        ),
        (
            holder(*PROXY, more=CONTAINER.format("", "ollama")),
            "the container ollama, whose models are on no volume",
            "docker cp ollama:/root/.ollama/models",
        ),
        (
            holder(*PROXY, more=CONTAINER.format("", "nginx")),
            "held by the container ollama (ollama/ollama)",
            "stop it, or set another port",
        ),
        (
            unit(OWN_UNIT, runs="/usr/bin/docker"),
            f"{OWN_UNIT} is there and runs /usr/bin/docker",
            "give it another name",
        ),
        (
            unit(OWN_UNIT, f"key {MINE} ExecStart="),
            f"{MINE} sets ExecStart, which is r1fleet's to set",
            "take that line out",
        ),
    ],
)
def test_what_is_refused_says_who_it_is_and_the_way_out(text: str, why: str, fix: str) -> None:
    made = planned(text)
    assert made.takings == ()
    assert made.refusal
    assert why in made.refusal[1]
    assert fix in made.refusal[2]


@pytest.mark.parametrize("text", [unit(OWN_UNIT), holder(SESSION), "found snap\n"])
def test_with_refuse_nothing_is_taken_over(text: str) -> None:
    made = planned(text, adopt="refuse")
    assert made.takings == ()
    assert made.refusal
    assert "adopt is refuse" in made.refusal[1]


def test_what_would_change_for_its_users_is_told() -> None:
    more = "\n".join(
        [
            *("env OLLAMA_HOST=0.0.0.0", "env OLLAMA_KEEP_ALIVE=-1", "env OLLAMA_DEBUG=1"),
            *("env OLLAMA_NOVEL=x", "env OLLAMA_MODELS=/usr/share/ollama/.ollama/models"),
            *(f"key {OWN_UNIT} Nice=", f"key {OWN_UNIT} User=", f"key {OWN_UNIT} HTTPS_PROXY"),
            *(f"key {MINE} OLLAMA_HOST", f"key {MINE} CUDA_CACHE_PATH"),
        ]
    )
    told = planned(unit(OWN_UNIT, more)).told
    assert told == (
        "Ollama by install.sh, ollama.service is there: r1fleet takes its place, with its 2 models"
        " (5.0 GB) of /usr/share/ollama/.ollama/models",
        "its OLLAMA_DEBUG was '1': the setting ollama_debug rules now",
        "its OLLAMA_HOST was '0.0.0.0': the setting ollama_host rules now",
        "its OLLAMA_NOVEL was 'x': see extra_env to keep it",
        f"{OWN_UNIT} is kept aside, and no longer in force: its Nice, HTTPS_PROXY",
        f"{MINE} stays in force (OLLAMA_HOST, CUDA_CACHE_PATH), where no setting rules",
    )


def test_models_that_lie_where_they_should_are_not_moved() -> None:
    old = "/usr/share/ollama/.ollama/models"
    (taking,) = planned(unit(OWN_UNIT), ollama_models=old).takings
    assert taking.models == ""
    # Nor where that is the same folder by another name.
    (taking,) = planned(unit(OWN_UNIT) + "same yes\n").takings
    assert taking.models == ""


def test_its_unit_in_another_slice_is_one_and_not_two() -> None:
    text = holder("/ai.slice/ollama.service", more="main 812\n") + unit(OWN_UNIT)
    assert [one.kind for one in planned(text).takings] == ["install.sh"]


def test_what_an_earlier_run_began_is_gone_on_with_though_it_shows_no_more() -> None:
    taking = Taking("process", "ann", "/home/ann/.ollama/models", 1000, stays=True, pid=812)
    state = install.begun({"decision": 1}, [taking])
    assert state["decision"] == 1
    assert state["adopted"][0]["from"] == "`ollama serve` of the user ann"
    settings: Settings = read("pc1", {})
    assert plan.plan(bare(state=state), settings).takings == (taking,)
    done = {**state, "adopted": install.finished(state)}
    assert plan.plan(bare(state=done), settings) == Plan()
    assert install.finished(done) == done["adopted"]  # and stays as it was noted first


@pytest.mark.parametrize("rows", [None, 3, ["x"], [{"kind": "other"}], [{}]])
def test_a_damaged_record_is_nothing_to_go_on_with(rows: object) -> None:
    assert plan.takings({"adopted": rows}, finished=False) == ()


def test_a_unit_file_elsewhere_is_none() -> None:
    refusal = planned(unit("/etc/shadow")).refusal
    assert refusal
    assert "'/etc/shadow' is none" in refusal[1]


def test_a_service_of_another_slice_is_no_persons_process() -> None:
    (taking,) = planned(holder("/ai.slice/my-llm.service", more="main 812\n")).takings
    assert (taking.kind, taking.name) == ("service", "my-llm.service")


def test_what_cron_has_started_is_refused_by_its_name() -> None:
    refusal = planned(holder("/system.slice/cron.service", more="main 3\n")).refusal
    assert refusal
    assert "started by cron.service" in refusal[1]


def test_a_container_that_goes_when_it_stops_is_refused() -> None:
    store = STORE.format("/var/lib/docker/volumes/ollama/_data/models", 0)
    more = CONTAINER.format("", "ollama") + f"passing true\n{store}\n"
    refusal = planned(holder("/system.slice/docker-1.scope", more=more)).refusal
    assert refusal
    assert "--rm" in refusal[1]
