"""Where each setting came from, and variables that look like a mistyped one."""

import os
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from configuration.sources import ENV_FILE, own_names, read_env_file, variable_names
from settings import Settings

ALIKE = 0.86  # of difflib: one letter or two in a name of ours
FEWEST = 6  # letters of a name that can be mistyped


class SettingOrigin(NamedTuple):
    """The variable that a setting was read from, and what it was read from."""

    variable: str
    place: str  # environment, .env, the path of a file, credential; default


def origins() -> dict[str, SettingOrigin]:
    """Return where every setting was read from, by the first name of its variable.

    The order is that of settings.py: the environment, files for one secret, `.env`.
    """
    variables, in_file = _variables()
    found = {}
    for field_name, field in Settings.model_fields.items():
        names = variable_names(field_name, field)
        found[names[0]] = _origin(names, variables, in_file)
    return found


def _variables() -> tuple[dict[str, str], dict[str, str]]:
    """Return what is set in the environment and in `.env`, by names in capitals."""
    here = {name.upper(): value for name, value in os.environ.items() if value}
    in_file = {
        name.upper(): value
        for name, value in read_env_file(ENV_FILE, own_names(Settings)).items()
        if value
    }
    return here, in_file


def _origin(names: list[str], here: dict[str, str], in_file: dict[str, str]) -> SettingOrigin:
    for name in names:
        if name.upper() in here:
            return SettingOrigin(name, 'environment')
    credentials = os.environ.get('CREDENTIALS_DIRECTORY')
    for name in names:
        if path := here.get(f'{name}_FILE') or in_file.get(f'{name}_FILE'):
            return SettingOrigin(f'{name}_FILE', path)
        if credentials and (Path(credentials) / name).is_file():
            return SettingOrigin(name, 'credential')
    for name in names:
        if name.upper() in in_file:
            return SettingOrigin(name, str(ENV_FILE))
    return SettingOrigin(names[0], 'default')


def mistyped() -> Iterator[tuple[str, str, str]]:
    """Yield name, where it is set, and which setting it may be meant for.

    Other programs have variables too: only those that are nearly one of ours are named.
    """
    here, in_file = _variables()
    ours = own_names(Settings) | {
        name
        for field_name, field in Settings.model_fields.items()
        for name in variable_names(field_name, field)
    }
    for name in sorted(here.keys() | in_file.keys()):
        if name in ours or len(name) < FEWEST:
            continue
        if meant := get_close_matches(name, ours, n=1, cutoff=ALIKE):
            yield name, 'environment' if name in here else str(ENV_FILE), meant[0]
