"""Alerts: somebody is told when a service goes down, once, and when it is back."""
