"""One worker and its claims: what it claims, how many at once, how it keeps its leases, and what it records."""
