"""arq that outlives Redis: jobs, queues, results and the connection.

It knows nothing of the outbox and imports nothing of ours.
"""
