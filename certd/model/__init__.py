"""The nouns of certd, their states, and which change may follow which."""
