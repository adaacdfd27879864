"""What comes back: bounces and complaints."""

from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from configuration.variables import Variables
from engine.urls import is_loopback
from mail.bounce.mailbox_place import MailboxPlace
from mail.bounce.return_path import ReturnPaths
from mail_outbox.envelope import InvalidEmailError, envelope_address

SHORTEST_SECRET = 16


class BounceVariables(Variables):
    """Bounces and complaints."""

    bounce_address: str | None = Field(
        default=None,
        description='Where reports go that the ingress takes, such as bounces@example.com.',
    )
    bounce_secret: SecretStr | None = Field(
        default=None,
        description='Signs a return path for each e-mail, bounces+ID-SIGNATURE@example.com (VERP): '
        '16 characters at least. Several with commas: the first signs, all are known.',
    )
    bounce_suppress_days: int = Field(
        default=180,
        ge=0,
        le=36500,
        description='An address that bounced as unknown gets no mail for so long; 0: it does.',
    )
    complaint_suppress_days: int = Field(
        default=3650, ge=0, le=36500, description='Who complained gets no mail for so long.'
    )

    bounce_imap_url: str | None = Field(
        default=None,
        description='A mailbox that reports come to, which workers read every minute: '
        'imaps://bounces%40example.com@imap.example.com/INBOX; imap:// requires STARTTLS.',
    )
    bounce_imap_password: SecretStr | None = Field(default=None, description='Its password.')
    bounce_imap_token_file: Path | None = Field(
        default=None,
        description='File with an access token for XOAUTH2 instead, which somebody else renews.',
    )
    bounce_imap_taken_folder: str | None = Field(
        default=None,
        min_length=1,
        description='Where reports are moved to, once they are stored. By default they stay.',
    )
    bounce_imap_ca_file: Path | None = Field(
        default=None, description="The authorities to trust for it instead of the system's."
    )

    @field_validator('bounce_imap_url')
    @classmethod
    def _check_imap_url(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme not in ('imap', 'imaps') or not parts.hostname or not parts.username:
                raise ValueError('must be imaps://USER@HOST/FOLDER')
            if parts.password is not None:
                raise ValueError('must have no password: BOUNCE_IMAP_PASSWORD is for that')
            if parts.query or parts.fragment or parts.port == 0:  # reading the port checks it
                raise ValueError('must end with the folder')
        return value

    @field_validator('bounce_address')
    @classmethod
    def _check_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            address = envelope_address(value)
        except InvalidEmailError as error:
            raise ValueError(str(error)) from error
        # A tag of 36 characters comes to the local part, which has 64 (RFC 5321, 4.5.3.1.1).
        local = address.rpartition('@')[0]
        if not local.isascii() or len(local) > 27 or '+' in local or '"' in local:
            raise ValueError('must have a local part of at most 27 ASCII characters, without +')
        return address

    @field_validator('bounce_secret')
    @classmethod
    def _check_secrets(cls, value: SecretStr | None) -> SecretStr | None:
        return checked_secrets(value)

    @model_validator(mode='after')
    def _check_both(self) -> Self:
        if self.bounce_secret is not None and self.bounce_address is None:
            raise ValueError('BOUNCE_SECRET needs BOUNCE_ADDRESS')
        proofs = (self.bounce_imap_password, self.bounce_imap_token_file)
        if self.bounce_imap_url is not None and sum(proof is not None for proof in proofs) != 1:
            raise ValueError(
                'BOUNCE_IMAP_URL needs BOUNCE_IMAP_PASSWORD, or BOUNCE_IMAP_TOKEN_FILE'
            )
        return self

    @property
    def return_paths(self) -> ReturnPaths | None:
        """Where reports go; None: nowhere that we know of."""
        if self.bounce_address is None:
            return None
        return ReturnPaths(self.bounce_address, secrets_of(self.bounce_secret))

    @property
    def bounce_mailbox(self) -> MailboxPlace | None:
        """The mailbox that reports come to."""
        if self.bounce_imap_url is None:
            return None
        parts, password = urlsplit(self.bounce_imap_url), self.bounce_imap_password
        host, is_implicit = parts.hostname or '', parts.scheme == 'imaps'
        return MailboxPlace(
            host=host,
            port=parts.port or (993 if is_implicit else 143),
            tls='implicit' if is_implicit else 'none' if is_loopback(host) else 'starttls',
            user=unquote(parts.username or ''),
            folder=unquote(parts.path.removeprefix('/')) or 'INBOX',
            password=None if password is None else password.get_secret_value(),
            token_file=self.bounce_imap_token_file,
            taken_folder=self.bounce_imap_taken_folder,
            ca_file=self.bounce_imap_ca_file,
        )


def secrets_of(value: SecretStr | None) -> tuple[str, ...]:
    """Return secrets that are given with commas between them."""
    text = '' if value is None else value.get_secret_value()
    return tuple(part.strip() for part in text.split(',') if part.strip())


def checked_secrets(value: SecretStr | None) -> SecretStr | None:
    """Return secrets that are given with commas between them.

    Raises:
        ValueError: one is too short to be any, or there is none.
    """
    if value is not None:
        lengths = [len(secret) for secret in secrets_of(value)]
        if min(lengths, default=0) < SHORTEST_SECRET:
            raise ValueError(f'must have {SHORTEST_SECRET} characters at least')
    return value
