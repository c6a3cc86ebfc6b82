"""What a host served last that was proven, kept for a way back."""
