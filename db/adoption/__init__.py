"""An outbound_emails that was there before this program.

It is added to, taken over, finished, or given back.

Until it is finished, the table keeps every column and type of its application. What this program
needs besides stands in columns that it adds; a trigger keeps the application's `status` and our
`mail_status` in step, and the view `mail_outbox` shows the table in the form of a new installation,
so that every other statement has one text.

The phases: expand -> shared -> take_over -> taken over -> finish -> finished; until then undo leads
back.
"""
