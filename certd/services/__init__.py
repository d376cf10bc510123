"""Use cases, a file per noun: who may, in what order, in which transaction."""
