"""Keys. The daemon's side is `client`; all else runs in the token process, the only one that holds the PIN."""
