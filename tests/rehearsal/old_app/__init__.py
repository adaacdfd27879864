"""An application as people have it: Celery, SQLAlchemy, smtplib.

Runs in `.venv-rehearsal`, without the project.
"""
