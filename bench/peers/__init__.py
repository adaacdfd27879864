"""No-op jobs in several queues, one module each; all but arq's run in `.venv-bench`.

Each module defines how its worker is started (the job calls `ran`) and `producer()`, an async
context manager that gives a coroutine function which enqueues one job. Where there was a choice it
is the faster one.
"""
