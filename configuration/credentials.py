"""Files that are named by a setting, and may be systemd's credentials."""

import os
from pathlib import Path


def in_credentials(name: str) -> Path:
    """Return a file's path; a name without a slash may be one of systemd's credentials."""
    directory = os.environ.get('CREDENTIALS_DIRECTORY')
    if directory and '/' not in name and (Path(directory) / name).is_file():
        return Path(directory) / name
    return Path(name)
