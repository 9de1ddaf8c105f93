"""How fast, against what, and how far to trust it. Verify first, then time."""
