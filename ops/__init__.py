"""The operators' commands, one small async script each: `python -m ops <command>`."""
