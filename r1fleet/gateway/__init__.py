"""Gateways: Caddy before a host's engine, and before the hosts of a fleet."""
