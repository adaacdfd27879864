"""Switches that keep mail from leaving: for staging, and the first hour of a new relay."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from configuration.variables import Variables
from mail.safety import Safety
from mail_outbox.envelope import InvalidEmailError, ascii_address


def _split(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(',') if part.strip())


def _check_addresses(value: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(map(ascii_address, value)))
    except InvalidEmailError as error:
        raise ValueError('must be plain addresses such as qa@example.com') from error


def _check_domains(value: tuple[str, ...]) -> tuple[str, ...]:
    try:
        domains = [ascii_address(f'x@{part}').removeprefix('x@').lower() for part in value]
    except InvalidEmailError as error:
        raise ValueError('must be domains such as example.com') from error
    return tuple(dict.fromkeys(domains))


class SafetyVariables(Variables):
    """What keeps mail from leaving; each is shown wherever the state of the program is."""

    dry_run: bool = Field(
        default=False,
        description='Make each message, and hand it to no relay: the e-mail ends cancelled.',
    )
    override_recipients: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check_addresses)
    ] = Field(
        default=(),
        description='Addresses, comma separated, that get every message instead of its '
        'recipients, who stand in the field X-Original-Recipients.',
    )
    allowed_recipient_domains: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check_domains)
    ] = Field(
        default=(),
        description='Domains, comma separated, outside which nobody gets mail, those below them '
        'neither. Not asked of OVERRIDE_RECIPIENTS.',
    )
    soft_bounce: bool = Field(
        default=False,
        description="A relay's refusal for good (5xx) is taken for one for now: the e-mail is "
        'tried again.',
    )

    @property
    def safety(self) -> Safety:
        """The switches as the worker wants them."""
        return Safety(
            dry_run=self.dry_run,
            override_recipients=self.override_recipients,
            allowed_domains=frozenset(self.allowed_recipient_domains),
            soft_bounce=self.soft_bounce,
        )
