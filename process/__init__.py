"""One process on its machine: systemd, the event loop, memory, stacks, the writer of log lines.

It imports nothing of ours.
"""
