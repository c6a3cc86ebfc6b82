"""The command `r1fleet`. The main job itself is run with pyinfra: see the README."""

from importlib import import_module

import click

# Imported when they are called: `fit` answers at once.
COMMANDS = {
    "ask": "r1fleet.ask_command:ask",
    "bundle": "r1fleet.bundle_command:bundle",
    "doctor": "r1fleet.doctor_command:doctor",
    "fit": "r1fleet.fit_command:fit",
    "init": "r1fleet.init_command:init",
    "lock": "r1fleet.lock_command:lock",
    "plan": "r1fleet.plan_command:plan",
    "report": "r1fleet.report_command:report",
    "settings": "r1fleet.settings_command:settings",
    "shape": "r1fleet.shape_command:shape",
    "status": "r1fleet.status_command:status",
    "token": "r1fleet.token_command:token",
    "tunnel": "r1fleet.tunnel_command:tunnel",
    "why": "r1fleet.why_command:why",
    "lab": "lab.cli:lab",
}


class Lazy(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        try:
            command: click.Command = getattr(import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name not in ("lab", "gguf", "numpy"):
                raise
            return _missing_lab
        return command


@click.command("lab")
def _missing_lab() -> None:
    """The simulated lab (only in a checkout of the source)."""
    raise click.UsageError("the lab needs a checkout of r1fleet: see docs/lab.md there")


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="r1fleet")
def main() -> None:
    """Tools around the main job, which is:

    \b
        pyinfra inventories/lab.py deploy.py -y
    """


if __name__ == "__main__":
    main()
