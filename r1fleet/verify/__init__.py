"""Proving that a host answers as it should, from where it should."""
