"""One process on its machine: systemd, the event loop, memory, stacks, the writer of log lines.

It knows neither e-mails nor arq, and imports nothing of ours.
"""
