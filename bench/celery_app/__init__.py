"""The same job as it was done before: Celery, SQLAlchemy and smtplib. Runs in `.venv-bench`."""
