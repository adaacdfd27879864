"""The settings as operators may see them, without secrets, and a digest that tells them apart."""

import hashlib
import json
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from configuration.sources import variable_names
from settings import Settings

PER_WORKER = frozenset({'WORKER_NAME'})  # differ in a fleet that is otherwise the same


def view(settings: Settings) -> dict[str, Any]:
    """Return every setting by its variable's name.

    Of secrets it shows only whether there is one, of URLs where they lead.
    """
    return {
        variable_names(name, field)[0]: _shown(getattr(settings, name))
        for name, field in Settings.model_fields.items()
    }


def _shown(value: Any) -> Any:
    match value:
        case SecretStr():
            return _without_secret(value.get_secret_value())
        case frozenset():
            return sorted(value)
        case tuple():
            return [_shown(part) for part in value]
        case BaseModel():
            return {key: _shown(getattr(value, key)) for key in sorted(value.model_fields_set)}
        case Path() | IPv4Network() | IPv6Network():
            return str(value)
        case _:
            return value


def _without_secret(secret: str) -> str:
    scheme, is_url, rest = secret.partition('://')
    if not is_url:
        return '***' if secret else ''
    # An unquoted / or @ in a password must not end it early, and options may hold passwords as
    # well.
    credentials, has_credentials, place = rest.rpartition('@')
    where, _, options = place.partition('?')
    shown = '***@' if has_credentials and credentials else ''
    return f'{scheme}://{shown}{where}{"?***" if options else ""}'


def digest(settings: Settings) -> str:
    """Return 12 hexadecimal digits, the same for workers with the same settings but for secrets."""
    shown = {name: value for name, value in view(settings).items() if name not in PER_WORKER}
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:12]
