"""The HTTP API: tokens, errors, and one module a subject; thin over actions/ and reporting/."""
