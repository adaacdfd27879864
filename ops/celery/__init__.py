"""Taking over from Celery, and the way back.

Only the table of commands, doctor's list of checks and `python -m db.migrate` import this room, so
that it can be deleted in one move.
"""
