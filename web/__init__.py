"""The web page: metrics, health and an overview, read-only. `python -m web`."""
