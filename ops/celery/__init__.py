"""Taking over from Celery, and the way back. Nothing outside imports this room but the table of commands."""
