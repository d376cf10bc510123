"""Daemons and token processes that are killed at chosen steps, and the proof that nothing is lost or doubled."""
