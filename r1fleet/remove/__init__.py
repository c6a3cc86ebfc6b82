"""Taking r1fleet away from hosts again."""
