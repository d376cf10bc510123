"""The Python client of the API: connection, retries, and errors that say what to do."""
