"""A host on which everything is unusual at once: what people's own machines are like.

One enters as a user whose sudo wants a password, whose shell is fish and talks, in German, with
/tmp noexec, a banner, and through another host and port only.
"""

from pathlib import Path
from textwrap import dedent

from lab.paths import GATEWAY, SOURCE

USER = "anna"
PASSWORD = "Grüße 'an \\ alle"
PORT = 2222

_FILES = {
    "ssh/sshd_config.d/20-odd.conf": f"""\
        Port 22
        Port {PORT}
        Banner /etc/issue.net
        # By this port from other hosts only: through a jump host.
        Match LocalPort {PORT} Address {GATEWAY}
            DenyUsers *
        """,
    "issue.net": """\
        ***************************************
        *  Nur für Mitarbeiter. Alles geloggt. *
        ***************************************
        """,
    "motd": "Wartung jeden Dienstag, 22 Uhr.\n",
    "profile.d/gruss.sh": "echo 'Guten Tag vom Profil'\n",
    f"sudoers.d/{USER}": f"{USER} ALL=(ALL:ALL) ALL\n",
    "systemd/system/r1lab-odd.service": """\
        [Unit]
        Description=What is odd about this host
        After=network-online.target
        Wants=network-online.target

        [Service]
        Type=oneshot
        RemainAfterExit=yes
        ExecStart=/bin/sh /etc/r1lab-odd.sh

        [Install]
        WantedBy=multi-user.target
        """,
}


def write(etc: Path) -> None:
    """Write what makes a host odd into its /etc; its first boot does the rest (odd.sh)."""
    for name, text in _FILES.items():
        path = etc / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")
    (etc / f"sudoers.d/{USER}").chmod(0o440)
    (etc / "r1lab-odd.password").write_text(f"{USER}:{PASSWORD}\n", encoding="utf-8")
    (etc / "r1lab-odd.password").chmod(0o600)
    (etc / "r1lab-odd.sh").write_text(f"user={USER}\n{(SOURCE / 'odd.sh').read_text()}")
    wanted = etc / "systemd/system/multi-user.target.wants/r1lab-odd.service"
    wanted.parent.mkdir(parents=True, exist_ok=True)
    wanted.symlink_to("/etc/systemd/system/r1lab-odd.service")
