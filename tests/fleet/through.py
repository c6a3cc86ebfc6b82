"""Clients of the fleet gateway, from this machine: several at once, one request each at a time."""

import json
import ssl
import threading
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPSConnection
from typing import Any

from tests.fleet.clients import TOLD
from tests.lab.conftest import seen

PORT = 11443
MOST_REQUESTS = 2000  # of each client
PAUSE_S = 0.3
LIMIT_S = 120.0
CHAT = {
    "model": "deepseek-r1:fleet",
    "messages": [{"role": "user", "content": "Reply with one word"}],
    "stream": False,
}


@dataclass(frozen=True)
class Door:
    """The fleet gateway as its clients know it: its CA is in `root`, PEM."""

    address: str
    root: str
    token: str

    def connect(self) -> HTTPSConnection:
        context = ssl.create_default_context(cadata=self.root)
        return HTTPSConnection(self.address, PORT, timeout=LIMIT_S, context=context)

    def ask(
        self, path: str, body: Any = None, *, token: str | None = None, method: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON of the answer; {} where that is none."""
        connection = self.connect()
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        data = None if body is None else json.dumps(body)
        try:
            connection.request(method or ("POST" if data else "GET"), path, data, headers)
            reply = connection.getresponse()
            said = reply.read()
        finally:
            connection.close()
        try:
            return reply.status, dict(json.loads(said))
        except ValueError:
            return reply.status, {}

    def word(self, path: str = "/api/chat") -> str:
        """What the model answers, or what went wrong."""
        try:
            status, said = self.ask(path, CHAT)
        except (OSError, HTTPException) as error:
            return f"{type(error).__name__}: {error}"
        return str(said["message"]["content"]).strip() if status == 200 else f"{status} {said}"


@dataclass
class Crowd:
    """Clients from when it is entered until it is left; `words` is what each got, in order."""

    door: Door
    label: str
    count: int = 4
    words: list[list[str]] = field(default_factory=list)

    def __enter__(self) -> "Crowd":
        self.over = threading.Event()
        self.words = [[] for _ in range(self.count)]
        self.threads = [threading.Thread(target=self._go, args=(mine,)) for mine in self.words]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()
        TOLD.append(f"{self.label}, through the fleet gateway: {self.told}")

    def wait_for(self, more: int) -> None:
        """Until there are so many more answers, for five minutes at most."""
        target = self.asked + more
        asked = seen(lambda: self.asked, lambda count: count >= target, 300)
        assert asked >= target, f"only {asked} of {target} requests in five minutes"

    @property
    def asked(self) -> int:
        return sum(map(len, self.words))

    @property
    def failed(self) -> list[str]:
        good = ("READY", "READYX")
        return [word for mine in self.words for word in mine if word not in good]

    @property
    def told(self) -> str:
        return f"{self.asked} requests of {self.count} clients, {len(self.failed)} failed"

    def _go(self, mine: list[str]) -> None:
        while not self.over.is_set() and len(mine) < MOST_REQUESTS:
            mine.append(self.door.word())
            self.over.wait(PAUSE_S)
