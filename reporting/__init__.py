"""What is told about the fleet and its mail. One judge of what is wrong, for commands, the page, metrics and alerts."""
