"""The name that clients ask for: what it should be, and how it moves."""
