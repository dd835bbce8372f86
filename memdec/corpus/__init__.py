"""Documents, token streams and windows."""
