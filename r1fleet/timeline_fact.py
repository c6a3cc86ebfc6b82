"""The history of a host, read from it."""

from pyinfra.api import FactBase

from r1fleet.timeline import COMMAND


class History(FactBase[list[str]]):
    """The lines of the history as `timeline.read` takes them."""

    def command(self) -> str:
        return COMMAND

    def process(self, output: list[str]) -> list[str]:
        return output
