"""`r1fleet report`: the JSON report of a run as a page."""

import json
import sys
from pathlib import Path

import click

FAILED, WRONG = 1, 2


@click.command()
@click.argument("report", default="report.json")
@click.option("-o", "--output", help="Where to write it; - is stdout. Default: REPORT as .html.")
@click.option("--title", default="Fleet report", show_default=True)
def report(report: str, output: str | None, title: str) -> None:
    """Make a page of REPORT, which a run with `--data report=FILE` has written.

    One file for a browser or a ticket: it fetches nothing, has no script, and follows the light or
    dark of its reader. `-` reads the report from standard input.

    Exit code 0: written; 1: it could not be written; 2: REPORT is no report.

    \b
    Example: r1fleet report report.json -o fleet.html
    """
    from r1fleet.report_page import PageError, page  # noqa: PLC0415

    try:
        text = sys.stdin.read() if report == "-" else Path(report).read_text(encoding="utf-8")
        made = page(json.loads(text), title)
    except OSError as error:
        click.echo(f"{report}: {error.strerror}; run with --data report={report}", err=True)
        raise SystemExit(WRONG) from None
    except (PageError, ValueError) as error:
        click.echo(f"{report}: {' '.join(str(error).split())}", err=True)
        raise SystemExit(WRONG) from None
    if output == "-" or (output is None and report == "-"):
        click.echo(made, nl=False)
        return
    target = Path(output) if output else Path(report).with_suffix(".html")
    try:
        target.write_text(made, encoding="utf-8")
    except OSError as error:
        click.echo(f"{target}: {error.strerror}", err=True)
        raise SystemExit(FAILED) from None
    click.echo(f"written: {target}")
