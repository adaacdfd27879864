"""What `python -m bench.run` can measure, one module a kind."""
