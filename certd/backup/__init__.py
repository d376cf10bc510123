"""Backups of a server: one encrypted file of database, token, journal and files, and the way back."""
