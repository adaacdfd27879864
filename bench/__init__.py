"""Measurements against other ways to do the same job: `python -m bench.run`."""
