"""Knocking at a host's ports from the machine one works on."""

import socket
import ssl
from http.client import HTTPConnection, HTTPException

LIMIT_S = 5.0
PATH = "/api/version"


class Untrusted(OSError):
    """The certificate is not one that should be believed."""


def answers(address: str, port: int) -> bool:
    """Whether something speaks HTTP there: an engine that refuses a Host is reached as well."""
    connection = HTTPConnection(address, port, timeout=LIMIT_S)
    try:
        connection.request("GET", PATH)
        connection.getresponse().read(64)
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
    return True


def gateway(address: str, port: int, tls: str, name: str, root: str, token: str) -> tuple[int, int]:
    """The statuses of a question without a token and with one.

    + tls, name: as in the settings; `root` is the CA of `internal`, PEM

    Raises Untrusted for a wrong certificate, OSError where there is no way.
    """
    return (
        _ask(address, port, _context(tls, root), name, {}),
        _ask(address, port, _context(tls, root), name, {"Authorization": f"Bearer {token}"}),
    )


def _context(tls: str, root: str) -> ssl.SSLContext | None:
    if tls == "off":
        return None
    return ssl.create_default_context(cadata=root if tls == "internal" and root else None)


def _ask(
    address: str, port: int, context: ssl.SSLContext | None, name: str, headers: dict[str, str]
) -> int:
    connection = HTTPConnection(address, port, timeout=LIMIT_S)
    try:
        plain = socket.create_connection((address, port), LIMIT_S)
        connection.sock = context.wrap_socket(plain, server_hostname=name) if context else plain
        connection.request("GET", PATH, headers=headers)
        return connection.getresponse().status
    except ssl.SSLCertVerificationError as error:
        raise Untrusted(error.verify_message) from None
    except HTTPException as error:
        raise OSError(f"no HTTP answer: {type(error).__name__}") from None
    finally:
        connection.close()
