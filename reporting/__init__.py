"""What is reported about the fleet and its mail, for commands, the page, metrics and alerts.

Nothing here knows a screen, and one judge says what is wrong.
"""
