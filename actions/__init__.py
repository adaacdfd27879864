"""What an operator may do, each as one typed function: no screen, no arguments of a command line.

A command, a page and the API call the same function. It gets the servers and plain values, and
returns a frozen dataclass. With dry_run it says what it would do. It calls `confirm` with its plan
before it changes anything: whoever asks a person raises there when the answer is no. Where a
selection is meant, `expected` is how many e-mails the person was shown; more are never changed.
"""
