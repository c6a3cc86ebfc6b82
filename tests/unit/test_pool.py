"""Which pools a fleet has, and which of them a class of clients is given."""

from dataclasses import replace

from r1fleet.gateway.pool import ANY, Stand, pool_id, routes

OLD, NEW = pool_id("a" * 64, 16384), pool_id("b" * 64, 16384)


def fleet(count: int, now: str | None = OLD, soon: str | None = OLD) -> list[Stand]:
    return [
        Stand(f"n{number}", f"10.0.0.{number}:11443", ("14b",), now, soon)
        for number in range(1, count + 1)
    ]


def test_a_pool_is_a_digest_and_a_context() -> None:
    assert pool_id("sha256:" + "a" * 64, 16384) == OLD
    assert len({OLD, NEW, pool_id("a" * 64, 32768)}) == 3
    assert len(OLD) == 12
    assert int(OLD, 16) >= 0


def test_a_settled_fleet_has_one_pool_for_each_class() -> None:
    big = [replace(one, name=f"b{one.name}", classes=("32b",), now=NEW) for one in fleet(2, NEW)]
    found = routes([*big, *fleet(3)], mixed=False)
    assert [(route.name, route.pools[0]) for route in found] == [("14b", OLD), ("32b", NEW)]
    assert found[0].addresses == tuple(f"10.0.0.{number}:11443" for number in (1, 2, 3))


def test_in_a_rollout_both_pools_are_known_and_clients_move_once() -> None:
    """Eight hosts in waves of 1, 3, 3 and 1."""
    names = [f"n{number}" for number in range(1, 9)]
    best = []
    for gone, leaving in ((0, names[:1]), (1, names[1:4]), (4, names[4:7]), (7, names[7:])):
        stands = [
            replace(one, now=NEW if names.index(one.name) < gone else OLD, soon=NEW)
            for one in fleet(8)
        ]
        (route,) = routes(stands, mixed=False, leaving=leaving)
        assert set(route.pools) == {OLD, NEW}
        assert len(route.addresses) == 8
        best.append(route.pools[0])
    assert best == [OLD, OLD, NEW, NEW]


def test_a_pool_that_is_not_known_yet_leaves_the_one_that_is() -> None:
    (route,) = routes(fleet(2, OLD, None), mixed=False, leaving=["n1", "n2"])
    assert route.pools == (OLD,)


def test_hosts_that_never_served_have_a_route_to_what_they_are_to_serve() -> None:
    (route,) = routes(fleet(2, None, NEW), mixed=False)
    assert route.pools == (NEW,)
    assert routes(fleet(2, None, None), mixed=False) == ()


def test_a_host_that_goes_to_another_class_is_in_both() -> None:
    moving = [replace(fleet(1)[0], classes=("14b", "32b"), soon=NEW)]
    assert {route.name for route in routes(moving, mixed=False)} == {"14b", "32b"}


def test_a_mixed_pool_is_whatever_the_hosts_serve() -> None:
    stands = [*fleet(2), replace(fleet(1, NEW)[0], name="n9", address="10.0.0.9:11443")]
    (route,) = routes(stands, mixed=True)
    assert route.pools == (ANY,)
    assert len(route.addresses) == 3
