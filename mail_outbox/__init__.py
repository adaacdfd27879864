"""What an application imports: what an e-mail is, what is refused, how it is queued, and how workers are woken."""
