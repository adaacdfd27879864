"""The relays: doctor comes in as a worker does, and sends nothing."""

import asyncio
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiosmtplib

from logs import hide_addresses
from mail.relay.dial import DialProgress, connect
from mail.relay.errors import RelayError
from mail.relay.greeting import Extensions
from mail.relay.options import RelayOptions, Tls
from reporting.checks.finding import Finding, error, note, warning
from reporting.wording import length

EXPIRY_WARN_S, EXPIRY_ERROR_S = 21 * 86400.0, 3 * 86400.0
LOCAL = ('localhost', '127.0.0.1', '::1')


@dataclass(frozen=True, slots=True)
class RelayFacts:
    """One relay, and how far a connection to it came; failed_at is None for all the way."""

    name: str
    host: str
    port: int
    user: str | None
    tls: bool
    failed_at: str | None = None
    failure: str | None = None
    expires_at: float | None = None  # its certificate, in seconds since 1970
    size_bytes: int | None = None  # the largest message it takes, 0 for any


async def check(
    relays: Sequence[RelayOptions], max_bytes: int, default_sender: str | None
) -> list[Finding]:
    """Try every configured relay, and judge what the settings say of them.

    Args:
        max_bytes: Of a whole message, as the settings allow.
        default_sender: The address that mail is sent from, where nobody chose one.
    """
    tried = await asyncio.gather(*map(try_relay, relays))
    return [
        *judge_configuration(relays, default_sender),
        *(finding for facts in tried for finding in judge_relay(facts, max_bytes)),
    ]


async def try_relay(options: RelayOptions) -> RelayFacts:
    """Come in as a worker does, say NOOP and QUIT."""
    facts: dict[str, Any] = {
        'name': options.name,
        'host': options.host,
        'port': options.port,
        'user': options.username,
        'tls': options.tls is not Tls.NONE,
    }
    progress, step = DialProgress(), None
    failure: Exception | None = None
    try:
        client = await connect(options, options.login(), progress)
        step = 'NOOP'
        await client.noop()
        await client.quit()
    except (aiosmtplib.SMTPException, RelayError, OSError, ValueError) as error:
        step, failure = step or progress.step, error
    finally:
        if progress.client is not None:
            progress.client.close()
    extensions = Extensions.read(progress.extensions)
    facts |= {'expires_at': expiry(progress), 'size_bytes': extensions.size_limit_bytes}
    if failure is None:
        return RelayFacts(**facts)
    said = str(failure).removeprefix(f'{options.name} ({options.host}:{options.port}): ')
    return RelayFacts(**facts, failed_at=step, failure=said or type(failure).__name__)


def expiry(progress: DialProgress) -> float | None:
    """Return when the relay's certificate ends, None without TLS."""
    transport = progress.transport
    tls: Any = transport.get_extra_info('ssl_object') if transport is not None else None
    certificate = tls.getpeercert() if tls else None
    return ssl.cert_time_to_seconds(certificate['notAfter']) if certificate else None


REMEDIES = {
    'resolve': 'correct its host, or see to the DNS of this machine',
    'connect': 'start it, open the firewall, or correct its host and port',
    'greeting': 'see its log: it does not greet this machine, or its port is one of implicit TLS',
    'EHLO': 'see its log: it does not greet this machine',
    'STARTTLS': 'renew its certificate, set SMTP_CA_FILE for a private authority, '
    'or use the name it is made out to',
    'AUTH': 'correct its user and password',
    'NOOP': 'see its log',
}


def judge_relay(facts: RelayFacts, max_bytes: int, now: float | None = None) -> Iterator[Finding]:
    """Judge one relay."""
    where = f'the relay {facts.name} ({facts.host}:{facts.port})'
    if facts.failed_at is not None:
        failure = hide_addresses(facts.failure)
        step = 'STARTTLS' if 'certificate' in (failure or '').lower() else facts.failed_at
        yield error(f'{where} fails at {facts.failed_at}: {failure}', REMEDIES[step])
    if facts.expires_at is not None:
        left_s = facts.expires_at - (time.time() if now is None else now)
        if left_s < EXPIRY_WARN_S:
            severity = error if left_s < EXPIRY_ERROR_S else warning
            yield severity(
                f'{where}: its certificate ends in {length(left_s)}; then no mail goes there',
                'renew it',
            )
    if facts.size_bytes and facts.size_bytes < max_bytes:
        yield warning(
            f'{where} takes messages of {facts.size_bytes} bytes at most, '
            f'EMAIL_MAX_BYTES is {max_bytes}',
            f'set EMAIL_MAX_BYTES={facts.size_bytes}, or have the relay take more',
        )
    if not facts.tls and facts.host not in LOCAL:
        exposed = 'the password and every message travel' if facts.user else 'every message travels'
        yield warning(
            f'{where} is used without TLS: {exposed} in the clear',
            'set its tls to starttls, or its USE_TLS to true',
        )


def judge_configuration(
    relays: Sequence[RelayOptions], default_sender: str | None
) -> Iterator[Finding]:
    """Judge what the settings say of the relays, without asking them."""
    names: dict[tuple[str, int], str] = {}
    for relay in relays:
        other = names.setdefault((relay.host, relay.port), relay.name)
        if other != relay.name:
            yield warning(
                f'the relays {other} and {relay.name} are the same server',
                'give one of them another host, or take it out of the settings',
            )
    for relay in relays:
        if relay.tls is Tls.OPPORTUNISTIC and relay.username and relay.host not in LOCAL:
            yield warning(
                f'the relay {relay.name} may get its password in the clear: its TLS is '
                'opportunistic, so whoever is on the way can turn it off',
                'set its tls to starttls',
            )
    if len(relays) == 1:
        yield note(
            'there is no second relay: while the only one is down, mail waits',
            'set SMTP_BACKUP_HOST, or RELAYS for more',
        )
    if default_sender is not None:
        yield warning(
            f'mail is sent from {default_sender}, which nobody can answer', 'set SMTP_FROM_EMAIL'
        )
