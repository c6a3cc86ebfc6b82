"""Faults of a host: the file can be read, and each can be taken back."""

import subprocess

import pytest

from lab import faults
from lab.shell import Refusal


@pytest.mark.parametrize("name", sorted(faults.known()))
def test_every_fault_says_what_it_is_and_can_be_taken_back(name: str) -> None:
    fault = faults.known()[name]
    assert fault.what
    assert bool(fault.power) != bool(fault.breaks and fault.mends)
    for script in (fault.breaks, fault.mends):
        subprocess.run(["sh", "-n", "-c", script], check=True)


def test_an_unknown_fault_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Refusal, match=r"known: .*reboot-slow"):
        faults.set_fault("t4", "on-fire", True)
