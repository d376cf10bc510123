"""Many agents beside a daemon that dies, for long: every renewal reaches every file, and nothing grows."""
