"""The probe's output as it is, for `r1fleet doctor --record`."""

from pyinfra.api import FactBase

from r1fleet.probe import command


class RawProbe(FactBase[str]):
    """What a host answers to the probe."""

    def command(self, models_dir: str, base_url: str) -> str:
        return command(models_dir, base_url)

    def process(self, output: list[str]) -> str:
        return "\n".join(output)
