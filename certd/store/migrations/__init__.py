"""One module per migration, in the order of their numbers. Released ones never change."""
