"""SMTP: connections to relays, their limits and rates, and one transaction at a time."""
