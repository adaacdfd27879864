"""Worker to worker, and workers to operators: registry, commands, events, switches, routes.

All of it goes through Redis or PostgreSQL, so whoever reads it checks what others wrote.
"""
