"""Who is at the desk: people log in with a token of the API, or a trusted proxy names them.

A session is a random value in a cookie and its SHA-256 in PostgreSQL; it ends after SESSION_S, at
the log-out, and with its token.
"""
