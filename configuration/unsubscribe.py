"""Links by which recipients unsubscribe."""

from collections.abc import Mapping
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from configuration.bounce import checked_secrets, secrets_of
from configuration.lists import named_once
from configuration.variables import Variables
from engine.urls import is_loopback
from mail.unsubscribe import UnsubscribeLinks

LONGEST_TYPE_CHARS, LONGEST_WORDS_CHARS = 100, 100
EXAMPLE = 'newsletter=Our newsletter,digest'


class UnsubscribeVariables(Variables):
    """Unsubscribing (RFC 8058): the worker writes the links, `python -m web` takes the clicks."""

    unsubscribe_url: str | None = Field(
        default=None,
        max_length=200,
        description='Where recipients reach /unsubscribe/ of the web server, such as '
        'https://mail.example.com.',
    )
    unsubscribe_secret: SecretStr | None = Field(
        default=None,
        description='Signs the links: 16 characters at least, the same for workers and web '
        'server. Several with commas: the first signs, all are known. Without one that signed a '
        'link, the link is dead.',
    )
    unsubscribe_types: Annotated[Mapping[str, str], NoDecode] = Field(
        default={},
        description='email_types whose mail has List-Unsubscribe, comma separated, each with what '
        'people read if that is another word: newsletter=Our newsletter,digest.',
    )

    @field_validator('unsubscribe_url')
    @classmethod
    def _check_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            _, host = parts.port, parts.hostname or ''
        except ValueError:
            parts, host = urlsplit(''), ''
        is_plain = value.isascii() and value.isprintable() and not set(value) & set('<> "\\')
        if not (is_plain and host) or parts.query or parts.fragment or parts.username is not None:
            raise ValueError('must be such as https://mail.example.com')
        # RFC 8058, 3.1: one-click takes HTTPS.
        if parts.scheme != 'https' and not (parts.scheme == 'http' and is_loopback(host)):
            raise ValueError('must begin with https://')
        return value.rstrip('/')

    @field_validator('unsubscribe_secret')
    @classmethod
    def _check_link_secrets(cls, value: SecretStr | None) -> SecretStr | None:
        return checked_secrets(value)

    @field_validator('unsubscribe_types', mode='before')
    @classmethod
    def _read_types(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        parts = (part.partition('=') for part in value.split(',') if part.strip())
        must_be = f'types, each once (a type has 1 to {LONGEST_TYPE_CHARS} characters): {EXAMPLE}'
        named = named_once(parts, must_be)
        return {name: words or name for name, words in named.items()}

    @field_validator('unsubscribe_types')
    @classmethod
    def _check_types(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        for name, words in value.items():
            if name == '*':  # other settings have it for all
                raise ValueError('must name each type: * is not every one')
            if not 1 <= len(name) <= LONGEST_TYPE_CHARS or not name.isprintable():
                raise ValueError(f'a type has 1 to {LONGEST_TYPE_CHARS} characters')
            if len(words) > LONGEST_WORDS_CHARS or not words.isprintable():
                raise ValueError(f'{name}: its words have at most {LONGEST_WORDS_CHARS} characters')
        return value

    @model_validator(mode='after')
    def _check_links(self) -> Self:
        if self.unsubscribe_types and not (self.unsubscribe_url and self.unsubscribe_secret):
            raise ValueError('UNSUBSCRIBE_TYPES needs UNSUBSCRIBE_URL and UNSUBSCRIBE_SECRET')
        return self

    @property
    def unsubscribe_links(self) -> UnsubscribeLinks | None:
        """The links that are known; new ones are written for unsubscribe_types alone."""
        secrets = secrets_of(self.unsubscribe_secret)
        if not secrets:
            return None
        return UnsubscribeLinks(self.unsubscribe_url or '', secrets, self.unsubscribe_types)
