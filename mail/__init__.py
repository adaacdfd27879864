"""Pure mail: what an e-mail is, how it becomes bytes, how it reaches a relay, what the relay's answer means."""
