"""certd-agent: runs beside a consumer, gets renewed certificates from the server, and has programs serve them."""
