"""The prepare processes: the pure second step of issuing, out of the daemon's interpreter lock and of its memory."""
