"""Plans and fits as tables for people."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

GOOD = {"fits": "green", "offload": "yellow", "cpu": "yellow"}


def print_fit(console: Console, found: Mapping[str, Any]) -> None:
    """The chosen tag, then every tag and quantisation."""
    hardware = found["hardware"]
    line(console, f"{gpu_names(hardware)}, {hardware['ram_mib'] / 1024:g} GiB of host memory")
    if found["chosen"]:
        for text in choice_lines(found["chosen"]):
            line(console, escape(text))
        for text in found["chosen"]["warnings"]:
            line(console, f"[yellow]warning:[/] {escape(text)}")
    wish = f"context {found['context_min']}"
    if found["parallel"] > 1:
        wish += f" for each of {found['parallel']} requests"
    table = Table(box=box.SIMPLE, title=f"Every tag with {wish}", title_justify="left")
    for name in ("tag", "quantisation", "verdict"):
        table.add_column(name, no_wrap=True)
    for name in ("VRAM needed", "left", "cache", "largest context", "CPU/GPU", "tokens/s"):
        table.add_column(name, justify="right")
    for row in found["tags"]:
        table.add_row(*_cells(row), style=GOOD.get(row["verdict"], "dim"))
    console.print(table)
    line(console, "tokens/s: rough, by memory bandwidth; --json has the basis of each")


def _cells(row: Mapping[str, Any]) -> Iterable[str]:
    speed, context = row["expected_tokens_per_s"], row["largest_context"]
    percent = row["gpu_percent"]
    return (
        row["tag"],
        row["quantisation"],
        row["verdict"],
        joined(row["needed_mib"]) or "-",
        joined(row["left_mib"]) or "-",
        row["kv_type"] or "-",
        str(context or "-"),
        "-" if percent is None else f"{100 - percent}/{percent} %",
        "-" if speed is None else f"{speed:g}",
    )


def print_plan(console: Console, hosts: Iterable[Mapping[str, Any]], *, candidates: bool) -> None:
    """For each host its hardware, choice, margin and download; `candidates`: the other tags too.

    The rows are those of plan_data.host_rows.
    """
    for row in hosts:
        line(console, f"[bold]{escape(row['host'])}[/]: {escape(_headline(row))}")
        if row["chosen"]:
            for text in choice_lines(row["chosen"], row["download_bytes"]):
                line(console, f"  {escape(text)}")
        for word, style, texts in (
            ("warning", "yellow", (row["chosen"] or {}).get("warnings", [])),
            ("warning", "yellow", row["warnings"]),
            ("note", "cyan", row["notes"]),
            (row["verdict"], "red", [row["reason"]] if row["reason"] else []),
        ):
            for text in texts:
                line(console, f"  [{style}]{word}:[/] {escape(text)}")
        for seen in row["candidates"] if candidates else ():
            if seen["verdict"] != "chosen":
                line(console, f"  {seen['tag']}: {seen['verdict']}; {escape(seen['reason'])}")


def _headline(row: Mapping[str, Any]) -> str:
    hardware = row["hardware"]
    if not hardware:
        return str(row["verdict"])
    estimated = " (estimated from PCI ids)" if hardware["estimated"] else ""
    return f"{gpu_names(hardware)}{estimated}, {hardware['ram_mib'] / 1024:.0f} GiB of host memory"


def choice_lines(chosen: Mapping[str, Any], download_bytes: int | None = None) -> Iterable[str]:
    """The choice in words: what, where, how much stays free, how much is to come."""
    to_come = chosen["download_bytes"] if download_bytes is None else download_bytes
    come = f"download {to_come / 1e9:.1f} GB" if to_come else "already there"
    speed = chosen["expected_tokens_per_s"]
    about = f", about {speed:g} tokens/s" if speed else ""
    yield (
        f"chosen: {chosen['tag']} ({chosen['base_model']}, {chosen['quantisation']}), "
        f"context {chosen['context']}, {chosen['kv_type']} cache; {come}{about}"
    )
    if chosen["placement"] == "gpu":
        yield (
            f"needs {joined(chosen['needed_mib'])} MiB of VRAM, "
            f"leaves {joined(chosen['left_mib'])} MiB"
        )
    elif chosen["placement"] == "offload":
        yield (
            f"{chosen['layers_on_gpu']} of {chosen['layers']} layers on the GPU "
            f"({chosen['gpu_percent']} %), needs {chosen['ram_mib']} MiB of host memory"
        )
    else:
        yield f"on the CPU, needs {chosen['ram_mib']} MiB of host memory"
    if speed:
        yield f"tokens/s are {chosen['speed_basis']}"


def gpu_names(hardware: Mapping[str, Any]) -> str:
    """The cards, equal ones counted, with their memory."""
    names = [f"{gpu['name']} ({gpu['vram_mib']} MiB)" for gpu in hardware["gpus"]]
    counted = {name: names.count(name) for name in names}
    shown = [f"{count} x {name}" if count > 1 else name for name, count in counted.items()]
    return ", ".join([*shown, *hardware["other_gpus"]]) or "no GPU"


def joined(numbers: Iterable[int] | None) -> str:
    return " + ".join(str(number) for number in numbers or ())


def line(console: Console, text: str) -> None:
    """A whole line, however long: it is copied and searched for."""
    console.print(text, highlight=False, soft_wrap=True)
