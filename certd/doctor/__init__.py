"""`certd doctor`: what is wrong with a server, or will be, with the remedy of each."""
