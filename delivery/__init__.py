"""One worker and its claims: what it claims, how many at once, how it keeps and records them."""
