"""Children of the daemon: frames, spawn, watch, restart, reconnect. Knows nothing of what they do."""
