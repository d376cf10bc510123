"""X.509 and key formats, and the rules of certificates. Pure: no input or output, no clock, no log."""
