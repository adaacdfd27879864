"""PostgreSQL and MongoDB: the outbox, what belongs to it, and nothing that sends."""
