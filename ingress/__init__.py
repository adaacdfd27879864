"""SMTP submission (RFC 6409) into the outbox, for applications that speak nothing else."""
