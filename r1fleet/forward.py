"""The engine's API of a host, reached through the SSH connection that pyinfra made to it."""

import http.client
import io
import json
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from r1fleet.reach import NoAnswer

if TYPE_CHECKING:
    from pyinfra.api import Host

    from r1fleet.settings import Settings

REFUSED = "or its sshd allows no forwarding (AllowTcpForwarding); r1fleet doctor tells more"


def connect(host: "Host", settings: "Settings", timeout_s: float = 30.0) -> Any:
    """A stream to the engine of a connected host, with a socket's recv, sendall and close.

    Raises NoAnswer.
    """
    from paramiko import SSHException  # noqa: PLC0415

    address, port = settings.engine_address
    client = getattr(host.connector, "client", None)
    try:
        if client is None:  # @local
            return socket.create_connection((address, port), timeout_s)
        transport = client.get_transport()
        channel = transport.open_channel(
            "direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=timeout_s
        )
    except (OSError, EOFError, SSHException) as error:
        raise NoAnswer(f"nothing listens at {address}:{port}, {REFUSED}") from error
    channel.settimeout(None)  # a thought may take its time
    return channel


def request(stream: Any, path: str, body: dict[str, Any] | None = None) -> Any:
    """Send a request over a stream; the response, its status checked. Raises NoAnswer."""
    connection = http.client.HTTPConnection("127.0.0.1")
    connection.sock = _Readable(stream)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(f"no answer from the engine: {error or type(error).__name__}") from error
    if response.status != http.client.OK:
        raise NoAnswer(f"HTTP {response.status}: {_error(response.read(4096))}")
    return response


def lines(response: Any) -> Iterator[dict[str, Any]]:
    """The objects of a streamed answer. Raises NoAnswer when it is cut, or ends in an error."""
    done = False
    try:
        for line in response:
            found = json.loads(line)
            if "error" in found:
                raise NoAnswer(str(found["error"]))
            done = bool(found.get("done"))
            yield found
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise NoAnswer(f"the answer broke off: {error or type(error).__name__}") from error
    if not done:
        raise NoAnswer("the answer broke off: the engine was stopped or the connection lost")


class _Readable:
    """A channel as http.client wants its socket: paramiko's own file object cannot peek."""

    def __init__(self, stream: Any) -> None:
        self.sendall, self.close, self._stream = stream.sendall, stream.close, stream

    def makefile(self, _: str) -> io.BufferedReader:
        return io.BufferedReader(_Raw(self._stream))


class _Raw(io.RawIOBase):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _error(body: bytes) -> str:
    text = body.decode(errors="replace").strip()
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text or "nothing more was said"
