"""The history of a host, read from it."""

from pyinfra.api import FactBase

from r1fleet.history import COMMAND


class History(FactBase[list[str]]):
    """The lines of the history as `history.read` takes them."""

    def command(self) -> str:
        return COMMAND

    def process(self, output: list[str]) -> list[str]:
        return output
