"""Read by pyinfra before it connects."""

from r1fleet import before  # noqa: F401  it says all
