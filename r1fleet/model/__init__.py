"""Delivering a model to a host: by a transient unit there, into a valid installation of it."""
