"""The settings by subject: each variable, its sources, and what operators see of it."""
