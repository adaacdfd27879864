"""One process on its machine: its supervisor, the event loop, memory, stacks, the log's writer.

It imports nothing of ours.
"""
