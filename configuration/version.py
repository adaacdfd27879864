"""The version of the program. It is imported by what only prints it, and imports nothing else."""

import tomllib
from importlib import metadata
from pathlib import Path


def program_version() -> str:
    """Return the version of the checkout that runs, or of the installed package."""
    try:
        project = tomllib.loads(
            (Path(__file__).parents[1] / 'pyproject.toml').read_text(encoding='utf-8')
        )
        return str(project['project']['version'])
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        pass
    try:
        return metadata.version('mail-outbox')
    except metadata.PackageNotFoundError:
        return 'unknown'
