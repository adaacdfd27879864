"""Stored templates, filled in processes of their own."""
