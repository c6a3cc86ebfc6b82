"""`r1fleet fit`: what fits hardware that you describe."""

import json
from typing import NoReturn

import click

from r1fleet.settings import SettingsError

RAM_GIB = 64.0


@click.command()
@click.option("--gpu", "gpus", multiple=True, help='A card, such as "RTX 4090"; repeat for more.')
@click.option("--ram", "ram_gib", type=float, help="Host memory in GiB.")
@click.option("--disk", "disk_gib", type=float, help="Free disk space for models in GiB.")
@click.option("--cores", type=int, default=16, show_default=True, help="CPU cores.")
@click.option("--context-min", type=int, help="Least context in tokens.")
@click.option("--parallel", type=int, help="Requests at once, each with the whole context.")
@click.option("--tag", help="A forced tag, such as 14b.")
@click.option("--data", multiple=True, help="Any other setting of the size, as key=value.")
@click.option("--json", "as_json", is_flag=True, help="The same for programs.")
def fit(
    gpus: tuple[str, ...],
    ram_gib: float | None,
    disk_gib: float | None,
    cores: int,
    context_min: int | None,
    parallel: int | None,
    tag: str | None,
    data: tuple[str, ...],
    as_json: bool,
) -> None:
    """Which DeepSeek-R1 fits hardware you describe, and why. No host is asked anything.

    Exit code 0: something fits; 2: wrong input, or nothing fits the policy.

    \b
    Example: r1fleet fit --gpu "RTX 4090" --gpu "RTX 3090" --ram 64
    """
    # Here and not above: `r1fleet --help` needs none of it.
    from r1fleet import fit as fitting  # noqa: PLC0415
    from r1fleet.plan_data import fit_data  # noqa: PLC0415

    named = {"context_min": context_min, "ollama_num_parallel": parallel, "tag": tag}
    if context_min and not any(word.startswith("context_max=") for word in data):
        # A least context above the default most would contradict it.
        named["context_max"] = max(context_min, 32768)
    try:
        hardware = fitting.described(gpus, RAM_GIB if ram_gib is None else ram_gib, disk_gib, cores)
        found = fit_data(fitting.fit(hardware, fitting.settings_of(data, named)))
    except SettingsError as error:
        # The settings of a host named fit: their lines begin with its name.
        _refuse(error.lines)
    except ValueError as error:
        _refuse([f"fit: {error}"])
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        _show(found, ram_gib is None)
    if found["chosen"] is None:
        _refuse([f"fit: {found['refusal']}"])


def _refuse(lines: list[str]) -> NoReturn:
    for text in lines:
        click.echo(text, err=True)
    raise SystemExit(2)


def _show(found: dict[str, object], is_ram_assumed: bool) -> None:
    import sys  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415

    from r1fleet.plan_text import line, print_fit  # noqa: PLC0415

    console = Console(width=None if sys.stdout.isatty() else 160)
    print_fit(console, found)
    if is_ram_assumed:
        line(console, f"{RAM_GIB:g} GiB of host memory are assumed; say otherwise with --ram")
