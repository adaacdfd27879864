"""What DKIM_KEYS says: whose mail is signed, and where the keys are."""

import stat
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)
from pydantic_settings import NoDecode

from configuration.credentials import in_credentials
from configuration.lists import read_entries
from configuration.sources import SeveralLines
from configuration.variables import Variables
from mail.signing.dkim import Signing
from mail.signing.keys import SigningKey, read_key
from mail_outbox.envelope import InvalidEmailError, ascii_address

EXAMPLE = '[{"domain": "example.com", "selector": "s1", "key_file": "/etc/dkim/s1.pem"}]'
MOST_KEY_BYTES = 64 * 1024
SELECTOR = r'^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$'


def _read_domain(value: str) -> str:
    try:
        return ascii_address(f'x@{value}').removeprefix('x@').lower()
    except InvalidEmailError as error:
        raise ValueError('must be a domain such as example.com') from error


class DkimEntry(BaseModel):
    """One key: whose mail it signs, and the file that holds it."""

    model_config = ConfigDict(extra='forbid', frozen=True, hide_input_in_errors=True)

    domain: Annotated[str, AfterValidator(_read_domain)] = Field(
        description='Mail whose From is of this domain, or of one below it that has no key of '
        'its own, is signed.'
    )
    selector: str = Field(
        max_length=63,
        pattern=SELECTOR,
        description='The key is published at SELECTOR._domainkey.DOMAIN.',
    )
    key_file: str = Field(
        min_length=1,
        description='The private key, RSA (1024 to 4096 bits) or Ed25519, in PEM form, which '
        'others must not be able to read; without a slash, a systemd credential.',
    )
    unsigned: tuple[str, ...] = Field(
        default=(),
        description='Fields left out of the signature since the relay writes them anew: '
        '`["date", "message-id"]` for Amazon SES. From is always signed.',
    )


def read_dkim_list(value: Any) -> tuple[DkimEntry, ...]:
    """Read the list: JSON, or the name of a file with it.

    Raises:
        ValueError: it is none, or says which entry is wrong, and what of it.
    """
    entries = read_entries(value, DkimEntry, EXAMPLE)
    places = [(entry.domain, entry.selector.lower()) for entry in entries]
    for domain, selector in places:
        if places.count((domain, selector)) > 1:
            raise ValueError(f'{domain} has the selector {selector} twice: each key has its own')
    return entries


class DkimVariables(Variables):
    """Signatures on what is sent."""

    dkim_keys: Annotated[
        tuple[DkimEntry, ...], NoDecode, SeveralLines(), BeforeValidator(read_dkim_list)
    ] = Field(
        default=(),
        description='Keys that sign mail (DKIM), by the domain of its From: a JSON list, '
        'or the name of a file with it, see below. Without it nothing is signed; a relay may '
        'still do so.',
    )


def read_signing(settings: DkimVariables) -> Signing | None:
    """Read the keys that the settings name.

    Returns:
        None when they name none.
    Raises:
        ValueError: one line that names the entry, and what is wrong with its file.
    """
    if not settings.dkim_keys:
        return None
    return Signing([load_key(entry) for entry in settings.dkim_keys])


def load_key(entry: DkimEntry) -> SigningKey:
    """Read the key of an entry.

    Raises:
        ValueError: one line that names the entry, and what is wrong with its file.
    """
    path = in_credentials(entry.key_file)
    unsigned = frozenset(name.strip().lower() for name in entry.unsigned) - {'from'}
    try:
        return read_key(_read_key_file(path), entry.domain, entry.selector, unsigned)
    except OSError as error:
        reason = f'cannot be read: {error.strerror or error}'
    except ImportError as error:
        reason = f'the package {error.name} is not installed: pip install cryptography'
    except ValueError as error:
        reason = str(error)
    raise ValueError(f'DKIM_KEYS: {entry.domain} ({entry.selector}): {path}: {reason}')


def _read_key_file(path: Path) -> bytes:
    if stat.S_ISFIFO(path.stat().st_mode):  # nobody may ever write to it
        raise ValueError('cannot be read: it is a pipe')
    with path.open('rb') as file:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
            raise ValueError(f'others can get at it (mode {mode:04o}): chmod 0600, or 0640')
        return file.read(MOST_KEY_BYTES)


def make_signing(settings: DkimVariables) -> Signing | None:
    """Return the DKIM keys that are configured; None for none.

    Raises:
        SystemExit: one line that names the entry, and what is wrong with its file.
    """
    try:
        return read_signing(settings)
    except ValueError as error:
        raise SystemExit(f'settings: {error}') from error
