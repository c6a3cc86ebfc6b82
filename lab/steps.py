"""What `lab up` shows while it works: a line per step, what goes on in it and for how long."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Say = Callable[[str], None]


class Steps:
    """Steps may run side by side. Without a terminal every message is a line of its own."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.fields[mark]} {task.description}"),
            TextColumn("{task.fields[message]}", style="dim", markup=False),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    @contextmanager
    def step(self, title: str) -> Iterator[Say]:
        """One step; the function given says what is being done. The last message stays."""
        begun = time.monotonic()
        task = self._live.add_task(title, total=1, message="", mark=" ")

        def say(message: str) -> None:
            self._live.update(task, message=message)
            self._line(f"{title}: {message}")

        try:
            yield say
        except BaseException:
            self._live.update(task, mark="[red]✗[/]")
            self._live.stop_task(task)
            self._line(f"{title}: failed after {time.monotonic() - begun:.1f} s")
            raise
        self._live.update(task, completed=1, mark="[green]✓[/]")
        self._line(f"{title}: done in {time.monotonic() - begun:.1f} s")

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
