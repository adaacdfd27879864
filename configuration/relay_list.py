"""What SMTP_RELAYS says: a list of relays, each with what it takes to reach it and to log in."""

import json
import os
import shlex
import shutil
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import NoDecode

from mail.relay.auth import MECHANISMS
from mail.relay.greeting import is_name


def _read_mechanisms(value: Any) -> Any:
    if isinstance(value, str):
        value = value.split(',')
    named = tuple(dict.fromkeys(str(part).strip().lower() for part in value if str(part).strip()))
    if unknown := [name for name in named if name not in MECHANISMS]:
        raise ValueError(f'{", ".join(unknown)}: we know only {", ".join(MECHANISMS)}')
    return named


def _check_command(value: SecretStr) -> SecretStr:
    try:
        words = shlex.split(value.get_secret_value())
    except ValueError:
        raise ValueError('its quotes are not closed') from None
    if not words or shutil.which(words[0]) is None:
        raise ValueError('its first word is no program that can be run')
    return value


def _check_ehlo_name(value: str) -> str:
    if not is_name(value):
        raise ValueError(
            'must be a domain in ASCII, such as mail.example.com, or an address literal: '
            '[192.0.2.1]'
        )
    return value


def _check_ca_file(value: Path) -> Path:
    if not value.is_file():
        raise ValueError(f'{value} is not a file')
    try:
        ssl.create_default_context(cafile=value)
    except ssl.SSLError as error:
        raise ValueError(f'{value} holds no certificate in PEM form') from error
    return value


Mechanisms = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_read_mechanisms)]
TokenCommand = Annotated[SecretStr, AfterValidator(_check_command)]
EhloName = Annotated[str, AfterValidator(_check_ehlo_name)]
CaFile = Annotated[Path, AfterValidator(_check_ca_file)]


class RelayLogin(BaseModel):
    """How to log in to a relay; without a user there is no AUTH."""

    user: str | None = None
    password: SecretStr | None = None
    auth_mechanisms: Mechanisms = ()
    oauth_token_file: Path | None = None
    oauth_token_command: TokenCommand | None = None
    oauth_timeout_s: float | None = Field(default=None, gt=0, le=300)

    def fault(self, prefix: str = '') -> str | None:
        """Return why nobody could log in so; None when somebody could.

        Args:
            prefix: What the names of the variables begin with.
        """
        file, command = self.oauth_token_file is not None, self.oauth_token_command is not None
        has_token = file or command
        has_password, mechanisms = self.password is not None, self.auth_mechanisms
        if file and command:
            return f'{prefix}OAUTH_TOKEN_FILE and {prefix}OAUTH_TOKEN_COMMAND exclude each other'
        if has_token and not self.user:
            return f'{prefix}OAUTH_TOKEN_... needs {prefix}USER'
        if self.user and not has_password and not has_token:
            return f'{prefix}USER needs {prefix}PASSWORD, or an OAUTH_TOKEN_FILE or _COMMAND'
        if 'xoauth2' in mechanisms and not has_token:
            return f'{prefix}AUTH_MECHANISMS: xoauth2 needs {prefix}OAUTH_TOKEN_FILE or _COMMAND'
        if self.user and not has_password and set(mechanisms) - {'xoauth2'}:
            return f'{prefix}AUTH_MECHANISMS: all but xoauth2 need {prefix}PASSWORD'
        return None


class RelayEntry(RelayLogin):
    """One relay. Its keys are the SMTP_ variables without SMTP_, in lower case.

    What it does not say of names, times and numbers is as the SMTP_ variable says for all.
    """

    model_config = ConfigDict(
        extra='forbid', frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    name: str = Field(pattern=r'^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$')
    host: str = Field(min_length=1)
    port: int = Field(default=587, ge=1, le=65535)
    use_tls: bool = True
    ehlo_name: EhloName | None = None
    ca_file: CaFile | None = None
    max_connections: int | None = Field(default=None, ge=1, le=500)
    idle_timeout_s: float | None = Field(default=None, gt=0)
    connect_timeout_s: float | None = Field(default=None, gt=0, le=300)
    command_timeout_s: float | None = Field(default=None, gt=0, le=600)
    body_timeout_s: float | None = Field(default=None, gt=0, le=1800)
    reply_timeout_s: float | None = Field(default=None, gt=0, le=3600)

    @model_validator(mode='before')
    @classmethod
    def _read_password_file(cls, keys: Any) -> Any:
        if not isinstance(keys, dict) or 'password_file' not in keys:
            return keys
        if 'password' in keys:
            raise ValueError('password and password_file exclude each other')
        path = _in_credentials(str(keys['password_file']))
        try:
            password = path.read_text(encoding='utf-8').rstrip('\r\n')
        except (OSError, ValueError) as error:
            raise ValueError(f'password_file: cannot read {path}: {error}') from error
        return {k: v for k, v in keys.items() if k != 'password_file'} | {'password': password}

    @model_validator(mode='after')
    def _check_login(self) -> Self:
        if fault := self.fault():
            raise ValueError(fault.lower())
        return self


def _in_credentials(name: str) -> Path:
    """Return a file's path; a name without a slash may be one of systemd's credentials."""
    directory = os.environ.get('CREDENTIALS_DIRECTORY')
    if directory and '/' not in name and (Path(directory) / name).is_file():
        return Path(directory) / name
    return Path(name)


def read_relay_list(value: Any) -> Any:
    """Read the list, which the environment gives as JSON.

    Raises:
        ValueError: it is none, or says which entry is wrong, and what of it; never a value.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f'no JSON: {error.msg} (character {error.pos + 1})') from None
        except RecursionError:
            raise ValueError('no JSON that can be read') from None
    if not isinstance(value, list | tuple):
        why = 'must be a list: [{"name": "eu", "host": "smtp.example.com"}]'
        raise ValueError(why)  # noqa: TRY004 - pydantic reports no other
    return tuple(_read_entry(number, entry) for number, entry in enumerate(value, start=1))


def _read_entry(number: int, entry: Any) -> RelayEntry:
    if isinstance(entry, RelayEntry):
        return entry
    try:
        return RelayEntry.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        key = '.'.join(map(str, first['loc']))
        no_such_key = f'no such key; there are {", ".join(RelayEntry.model_fields)}, password_file'
        reason = no_such_key if first['type'] == 'extra_forbidden' else first['msg']
        raise ValueError(
            f'entry {number}{_called(entry)}: {key + ": " if key else ""}'
            f'{reason.removeprefix("Value error, ")}'
        ) from None


def _called(entry: Any) -> str:
    name = entry.get('name') if isinstance(entry, dict) else None
    return f' ({name[:63]})' if isinstance(name, str) and name.isprintable() else ''


def same_names(relays: Iterable[RelayEntry]) -> list[str]:
    """Return the names that more than one relay has."""
    names = [relay.name for relay in relays]
    return sorted({name for name in names if names.count(name) > 1})
