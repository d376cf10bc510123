"""HTTP in: certificates of authorities, health, metrics."""
