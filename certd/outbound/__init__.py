"""Everything that the daemon dials."""
