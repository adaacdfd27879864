"""The workers as a group: the arq worker we run, its claims, its wire format."""
