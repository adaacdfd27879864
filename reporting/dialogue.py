"""A dialogue with a relay that sends no mail: how far it comes, step by step, and in what time.

It comes in by mail.relay.dial.connect, as a worker does, and says MAIL, RSET and QUIT.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiosmtplib

from logs import hide_addresses
from mail.relay.dial import DialProgress, DialStep, connect
from mail.relay.errors import RelayError
from mail.relay.options import RelayOptions, Tls
from reporting.checks.relays import expiry
from reporting.wording import length

LONGEST_CHARS = 500


@dataclass(frozen=True, slots=True)
class DialogueStep:
    """One step: what it took, and what the relay said; is_good is whether the next could follow."""

    step: str
    took_ms: float
    said: str
    is_good: bool = True


async def dialogue(options: RelayOptions, sender: str) -> list[DialogueStep]:
    """Go through a dialogue up to MAIL FROM, and take that back.

    Args:
        sender: For MAIL FROM.
    Returns:
        The steps in their order; the last one failed, or is QUIT.
    """
    progress, login = DialProgress(), options.login()
    failure: Exception | None = None
    try:
        await connect(options, login, progress)
    except RelayError as error:
        failure = error
    ended_at = time.monotonic()
    try:
        steps = _dialled(options, progress, ended_at, failure)
        if failure is None and progress.client is not None:
            if login is not None:
                said = f'by {(login.works or "").upper()} as {options.username}'
                steps[-1] = DialogueStep('AUTH', steps[-1].took_ms, said)
            steps += await _talk(progress.client, sender)
    finally:
        if progress.client is not None:
            progress.client.close()
    return steps


def _dialled(
    options: RelayOptions, progress: DialProgress, ended_at: float, failure: Exception | None
) -> list[DialogueStep]:
    """Return the steps up to the one that failed, or to the login."""
    told = {
        DialStep.RESOLVE: ', '.join(progress.addresses),
        DialStep.CONNECT: progress.address or '',
        DialStep.GREETING: str(progress.greeting or '')
        + (f'; {_tls(progress)}' if options.tls is Tls.IMPLICIT and progress.transport else ''),
        DialStep.EHLO: _extensions(progress.first_extensions),
        DialStep.STARTTLS: f'{_tls(progress)}; {_extensions(progress.extensions)}',
    }
    ends = [at for _, at in progress.began[1:]] + [ended_at]
    steps = [
        DialogueStep(step.value, _ms(end - at), told.get(step, '')[:LONGEST_CHARS])
        for (step, at), end in zip(progress.began, ends, strict=True)
    ]
    if failure is not None:
        last = steps[-1]
        said = str(failure).removeprefix(f'{options.name} ({options.host}:{options.port}): ')
        said = (said or type(failure).__name__)[:LONGEST_CHARS]
        steps[-1] = DialogueStep(last.step, last.took_ms, said, is_good=False)
    return steps


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _extensions(keywords: Mapping[str, str]) -> str:
    words = (f'{name.upper()} {more}'.strip() for name, more in keywords.items())
    return ', '.join(words) or 'no extensions'


def _tls(progress: DialProgress) -> str:
    """Say how the connection is protected, and whom the certificate is made out to."""
    tls: Any = progress.transport.get_extra_info('ssl_object') if progress.transport else None
    if tls is None:
        return 'no TLS'
    cipher, *_ = tls.cipher() or ('unknown',)
    certificate = tls.getpeercert()
    if not certificate:
        return f'{tls.version()} {cipher}, the certificate is not checked'
    names = ', '.join(name for _, name in certificate.get('subjectAltName', ())[:5])
    ends_in = length((expiry(progress) or 0.0) - time.time())
    return f'{tls.version()} {cipher}, certificate for {names}, ends in {ends_in}'


async def _talk(client: aiosmtplib.SMTP, sender: str) -> list[DialogueStep]:
    """Say MAIL, RSET and QUIT; a relay that refuses the sender is told the others all the same."""
    steps: list[DialogueStep] = []
    for name, command in (
        ('MAIL FROM', b'MAIL FROM:<' + sender.encode() + b'>'),
        ('RSET', b'RSET'),
        ('QUIT', b'QUIT'),
    ):
        began_at, is_good = time.monotonic(), False
        try:
            reply = await client.execute_command(command)
            said, is_good = f'{reply.code} {reply.message}', 200 <= reply.code < 300
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            said = str(error) or type(error).__name__
        took_ms = _ms(time.monotonic() - began_at)
        steps.append(DialogueStep(name, took_ms, said[:LONGEST_CHARS], is_good))
        if not is_good and name != 'MAIL FROM':
            break
        if not client.is_connected:
            break
    return steps


def shown(step: DialogueStep) -> dict[str, Any]:
    """Return a step for people; a reply may hold addresses, which are hidden."""
    return {
        'step': step.step,
        'took_ms': step.took_ms,
        'said': hide_addresses(step.said),
        'is_good': step.is_good,
    }
