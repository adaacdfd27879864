"""A process as its machine sees it: systemd, the event loop, memory, stacks, log lines."""
