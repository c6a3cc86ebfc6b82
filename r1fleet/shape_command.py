"""`r1fleet shape`: what to put into the user's own catalogue for a model that we do not know."""

import click


@click.command()
@click.argument("name")
@click.option(
    "--registry-url", default="https://registry.ollama.ai", show_default=True, help="Or a mirror."
)
def shape(name: str, registry_url: str) -> None:
    """Read the shape of any model of the library, NAME with its tag, from the head of its file.

    It prints what catalog/local.yaml takes; then `model` and `tag` can name it.

    \b
    Example: r1fleet shape llama3.1:8b
    """
    import yaml  # noqa: PLC0415  here and not above: `r1fleet --help` needs none of it

    from r1fleet.shape import ShapeError, other_model  # noqa: PLC0415

    try:
        row = other_model(name, registry_url).model_dump(mode="json", exclude_defaults=True)
    except ShapeError as error:
        click.echo(f"shape: {error}", err=True)
        raise SystemExit(2) from None
    row["digest"] = row["digest"].removeprefix("sha256:")
    click.echo(yaml.safe_dump({"others": [row]}, sort_keys=False, width=100), nl=False)
