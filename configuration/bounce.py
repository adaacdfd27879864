"""What comes back: bounces and complaints."""

from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator

from configuration.variables import Variables
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
        if value is not None and any(len(s) < SHORTEST_SECRET for s in secrets_of(value)):
            raise ValueError(f'must have {SHORTEST_SECRET} characters at least')
        return value

    @model_validator(mode='after')
    def _check_both(self) -> Self:
        if self.bounce_secret is not None and self.bounce_address is None:
            raise ValueError('BOUNCE_SECRET needs BOUNCE_ADDRESS')
        return self

    @property
    def return_paths(self) -> ReturnPaths | None:
        """Where reports go; None: nowhere that we know of."""
        if self.bounce_address is None:
            return None
        return ReturnPaths(self.bounce_address, secrets_of(self.bounce_secret))


def secrets_of(value: SecretStr | None) -> tuple[str, ...]:
    """Return secrets that are given with commas between them."""
    text = '' if value is None else value.get_secret_value()
    return tuple(part.strip() for part in text.split(',') if part.strip())
