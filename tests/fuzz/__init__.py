"""Mutated CSRs and requests: what `scripts/bench fuzz` and its short form in the tests are made of."""
