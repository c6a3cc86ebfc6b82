"""What gateways and mirrors know of hosts that have left the inventory."""

from r1fleet.gateway import fleet as made
from r1fleet.gateway.pool import Stand
from r1fleet.hostfacts import Gateway
from r1fleet.remove import strays
from r1fleet.settings import Settings
from tests.unit.build import bare


def test_a_gateway_that_knows_too_many() -> None:
    stands = [Stand(name, f"{name}:1", ("14b",), None, None) for name in ("a", "gone")]
    probe = bare(gateway=Gateway(knows=made.knows(stands, ())))
    (line,) = strays.warnings(probe, Settings(), {"a", "b"}, set())
    assert line.startswith("the fleet gateway still knows gone, which the inventory does not")
    assert strays.warnings(probe, Settings(), {"a", "gone"}, set()) == []


def test_a_mirror_that_lets_too_many_in() -> None:
    own = Settings(mirror_allow=["10.2.0.0/16", "10.3.0.1"])
    allows = ("127.0.0.0/8", "::1/128", "10.0.0.1/32", "10.0.0.2/32", "10.2.0.0/16", "10.3.0.1/32")
    probe = bare(mirror_allows=allows)
    (line,) = strays.warnings(probe, own, set(), {"10.0.0.1"})
    assert line.startswith("the mirror still lets 10.0.0.2 in")
    assert strays.warnings(probe, own, set(), {"10.0.0.1", "10.0.0.2"}) == []
