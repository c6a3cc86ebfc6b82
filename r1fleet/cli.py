"""The command `r1fleet`. The main job itself is run with pyinfra: see the README."""

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="r1fleet")
def main() -> None:
    """Tools around the main job, which is:

    \b
        pyinfra inventories/lab.py deploy.py -y
    """


def _add_lab() -> None:
    try:
        from lab.cli import lab  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name not in ("lab", "gguf", "numpy"):
            raise

        @main.command("lab")
        def missing() -> None:
            """The simulated lab (only in a checkout of the source)."""
            raise click.UsageError("the lab needs a checkout of r1fleet: see docs/lab.md there")
    else:
        main.add_command(lab)


_add_lab()

if __name__ == "__main__":
    main()
