"""Pure mail: how an e-mail becomes bytes and reaches a relay, and what the reply means."""
