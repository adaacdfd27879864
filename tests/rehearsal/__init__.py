"""A Celery installation under load moves over as docs/migration.md says, and every e-mail is
counted.
"""
