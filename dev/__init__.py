"""The embedded stack: real servers out of Python wheels, for the demo, the tests and the chaos harness.

`python -m dev.stack --env-file PATH` runs it; `dev.stack.Stack` is the same thing for Python code.
Nothing here is imported by the worker.
"""
