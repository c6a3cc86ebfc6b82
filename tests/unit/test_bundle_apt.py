"""Sources of a host for an apt in a folder of its own, names of packages, and apt's answer."""

import pytest

from r1fleet.bundle.apt import own_sources, plain_name, read_sources
from r1fleet.bundle.packages import installs

LIST = """\
# a comment with main
deb http://deb.example.org/debian bookworm main
deb-src http://deb.example.org/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/a.gpg] http://x.example.org/ ./
"""
SOURCES = """\
Types: deb deb-src
URIs: http://deb.example.org/debian
Components: main
Signed-By: /etc/apt/keyrings/a.pgp, /usr/share/keyrings/b.pgp
"""


def test_keys_are_taken_from_the_folder_and_sources_are_left_out() -> None:
    assert own_sources(LIST, "/tmp/x", ()) == (
        "# a comment with main\n"
        "deb http://deb.example.org/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/tmp/x/usr/share/keyrings/a.gpg] http://x.example.org/ ./\n"
    )
    assert own_sources(SOURCES, "/tmp/x", ()) == (
        "Types: deb\n"
        "URIs: http://deb.example.org/debian\n"
        "Components: main\n"
        "Signed-By: /tmp/x/etc/apt/keyrings/a.pgp, /tmp/x/usr/share/keyrings/b.pgp\n"
    )


def test_components_stand_where_main_stands() -> None:
    more = ("contrib", "non-free")
    assert "bookworm main contrib non-free\n" in own_sources(LIST, "/tmp/x", more)
    assert "org/ ./\n" in own_sources(LIST, "/tmp/x", more)
    assert "# a comment with main\n" in own_sources(LIST, "/tmp/x", more)
    assert "Components: main contrib non-free\n" in own_sources(SOURCES, "/tmp/x", more)


def test_a_name_without_its_epoch() -> None:
    assert plain_name("zlib1g_1%3a1.2.13.dfsg-1_amd64.deb") == "zlib1g_1.2.13.dfsg-1_amd64.deb"
    assert plain_name("curl_7.88.1-10+deb12u15_amd64.deb") == "curl_7.88.1-10+deb12u15_amd64.deb"


def test_what_apt_would_install() -> None:
    output = """\
Inst curl [7.88.1-10+deb12u14] (7.88.1-10+deb12u15 localhost [amd64]) []
Inst libcurl4 [7.88.1-10+deb12u14] (7.88.1-10+deb12u15 localhost [amd64])
Inst zlib1g (1:1.2.13 . [amd64])
Conf curl (7.88.1-10+deb12u15 localhost [amd64])
"""
    assert installs(output) == [
        ("curl", "7.88.1-10+deb12u15"),
        ("libcurl4", "7.88.1-10+deb12u15"),
        ("zlib1g", "1:1.2.13"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        'Acquire::http::Proxy "x"; APT::Update::Pre-Invoke {"id";};',
        'Acquire::http::Proxy "x"; #include "/tmp/x"',
        'Acquire::http::Proxy::h "x";};',
        'Acquire::http::Proxy-Auto-Detect "/tmp/x";',
        'Acquire::ftp::Proxy "x";',
    ],
)
def test_a_host_says_only_proxies_to_the_apt_of_this_machine(line: str) -> None:
    """Its configuration may name commands, which would be run here."""
    sound = 'Acquire::http::Proxy "http://10.0.0.1:3142";'
    told = read_sources(["tar QUJD", sound, line, 'Acquire::http::Proxy::h "DIRECT";'])
    assert told == {"tar": "QUJD", "proxies": f'{sound}\nAcquire::http::Proxy::h "DIRECT";'}
