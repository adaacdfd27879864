"""The embedded stack: real servers out of Python wheels.

The demo, the tests and the chaos harness use it.

`python -m dev.stack --env-file PATH` runs it; `dev.stack.Stack` is the same thing for Python code.
Nothing here is imported by the worker.
"""
