"""Where settings come from besides the environment: `.env`, and files that hold one secret each."""

import codecs
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dotenv.parser import Binding, parse_stream
from pydantic import AliasChoices
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, DotEnvSettingsSource, PydanticBaseSettingsSource
from pydantic_settings.sources.utils import parse_env_vars

ENV_FILE = Path('.env')
# Longer ones first: that of UTF-32 begins as that of UTF-16.
OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: 'UTF-32',
    codecs.BOM_UTF32_BE: 'UTF-32',
    codecs.BOM_UTF16_LE: 'UTF-16',
    codecs.BOM_UTF16_BE: 'UTF-16',
}
ASSIGNMENT = re.compile(r'^\s*(?:export\s+)?([A-Za-z_]\w*)\s*=', re.MULTILINE)


class SeveralLines:
    """Marks a variable whose value may have line ends."""


class EnvFile(DotEnvSettingsSource):
    """Values from `.env`, as read_env_file reads it."""

    def _read_env_file(self, file_path: Path) -> Mapping[str, str | None]:
        found = read_env_file(file_path, own_names(self.settings_cls))
        return parse_env_vars(
            found, self.case_sensitive, self.env_ignore_empty, self.env_parse_none_str
        )


def read_env_file(path: Path, names: frozenset[str]) -> dict[str, str | None]:
    """Read assignments as a shell would, but for `$`, which stands for itself.

    Args:
        names: Variables whose values have no line ends: a quote that goes on for lines was not
            closed.
    Returns:
        Values by name; nothing where there is no such file.
    Raises:
        SystemExit: one line that names the file and the line, never a value.
    """
    if not (path.is_file() or path.is_fifo()):
        return {}
    found: dict[str, str | None] = {}
    for binding in parse_stream(io.StringIO(_read_text(path))):
        if is_mistake(binding, names):
            written = binding.original.string
            line = binding.original.line + written[: len(written) - len(written.lstrip())].count(
                '\n'
            )
            raise SystemExit(
                f'settings: {path}: line {line}: a quote is not closed, '
                'or the line is no assignment'
            )
        if binding.key is not None:
            found[binding.key] = binding.value
    return found


def is_mistake(binding: Binding, own_names: frozenset[str]) -> bool:
    """Whether something was to be assigned, and was not, or swallowed what follows."""
    if binding.error:
        return bool(
            re.search('[\'"=]', binding.original.string)
        )  # other words of a shell script are let pass
    _, line_end, more = (binding.value or '').partition('\n')
    names = {found[1].upper() for found in ASSIGNMENT.finditer(more)} | {
        (binding.key or '').upper()
    }
    return bool(line_end) and not names.isdisjoint(own_names)


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SystemExit(f'settings: {path}: cannot be read: {error.strerror}') from error
    for mark, encoding in OTHER_ENCODINGS.items():
        if data.startswith(mark):
            raise SystemExit(
                f'settings: {path}: line 1: the file is in {encoding}; write it in UTF-8'
            )
    try:
        text = data.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b'\n') + 1
        raise SystemExit(
            f'settings: {path}: line {line}: not in UTF-8; write the file in UTF-8'
        ) from None
    if '\0' in text:
        line = text[: text.index('\0')].count('\n') + 1
        raise SystemExit(
            f'settings: {path}: line {line}: not in UTF-8 (a character with the code 0)'
        )
    return text


class SecretFiles(PydanticBaseSettingsSource):
    """Values from NAME_FILE paths and from the directory of systemd credentials."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the content of the first file that stands for this field, or None."""
        credentials_dir = os.environ.get('CREDENTIALS_DIRECTORY')
        variables = read_env_file(ENV_FILE, own_names(self.settings_cls)) | os.environ
        for name in variable_names(field_name, field):
            path = variables.get(f'{name}_FILE')
            if path is None and credentials_dir and (Path(credentials_dir) / name).is_file():
                path = str(Path(credentials_dir) / name)
            if path:
                try:
                    return Path(path).read_text(encoding='utf-8').rstrip('\r\n'), name, False
                except (OSError, UnicodeDecodeError) as error:
                    raise SystemExit(
                        f'settings: {name}_FILE: cannot read {path}: {error}'
                    ) from error
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return what the files give, by variable name."""
        found = {}
        for field_name, field in self.settings_cls.model_fields.items():
            value, name, _ = self.get_field_value(field, field_name)
            if value is not None:
                found[name if field.validation_alias else field_name] = value
        return found


def own_names(settings_cls: type[BaseSettings]) -> frozenset[str]:
    """Return the variables that stand for a setting in one line, or for the file that holds it."""
    names = {
        name
        for field_name, field in settings_cls.model_fields.items()
        if not any(isinstance(mark, SeveralLines) for mark in field.metadata)
        for name in variable_names(field_name, field)
    }
    return frozenset(names | {f'{name}_FILE' for name in names})


def variable_names(field_name: str, field: FieldInfo) -> list[str]:
    """Return the environment variables a field is read from, the preferred one first."""
    match field.validation_alias:
        case AliasChoices(choices=choices):
            return [str(choice) for choice in choices]
        case str(alias):
            return [alias]
        case _:
            return [field_name.upper()]
