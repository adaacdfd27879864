"""Where settings come from besides the environment and `.env`: files that hold one secret each."""

import os
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic import AliasChoices
from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource


class SecretFiles(PydanticBaseSettingsSource):
    """Values from NAME_FILE paths and from the directory of systemd credentials."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the content of the first file that stands for this field, or None."""
        credentials_dir = os.environ.get('CREDENTIALS_DIRECTORY')
        variables = dotenv_values('.env') | os.environ
        for name in variable_names(field_name, field):
            path = variables.get(f'{name}_FILE')
            if path is None and credentials_dir and (Path(credentials_dir) / name).is_file():
                path = str(Path(credentials_dir) / name)
            if path:
                try:
                    return Path(path).read_text(encoding='utf-8').rstrip('\r\n'), name, False
                except (OSError, UnicodeDecodeError) as error:
                    raise SystemExit(f'settings: {name}_FILE: cannot read {path}: {error}') from error
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return what the files give, by variable name."""
        found = {}
        for field_name, field in self.settings_cls.model_fields.items():
            value, name, _ = self.get_field_value(field, field_name)
            if value is not None:
                found[name if field.validation_alias else field_name] = value
        return found


def variable_names(field_name: str, field: FieldInfo) -> list[str]:
    """Return the environment variables a field is read from, the preferred one first."""
    match field.validation_alias:
        case AliasChoices(choices=choices):
            return [str(choice) for choice in choices]
        case str(alias):
            return [alias]
        case _:
            return [field_name.upper()]
