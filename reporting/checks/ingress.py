"""The SMTP ingresses: those that registered answer, refuse strangers, and have a certificate."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import aiosmtplib

from engine.der import certificate_ends_at
from engine.urls import is_loopback
from fleet.ingresses import read_ingresses
from reporting.checks.finding import Finding, error, from_judge
from reporting.judge_ingresses import judge_ingresses
from reporting.live import read_database
from reporting.overview import mark_foreign
from reporting.problems import Document
from reporting.servers import Servers

TIMEOUT_S = 5.0
NOT_LOGGED_IN = 530
STRANGER = 'doctor@example.com'
EVERY_ADDRESS = ('0.0.0.0', '::')  # noqa: S104 - nothing listens here


@dataclass(frozen=True, slots=True)
class StrangersAnswer:
    """What an ingress said to a client that does not log in.

    Attributes:
        failure: Why it did not come so far; None when it did.
        has_tls: STARTTLS is offered.
        expires_at: The certificate's end, in seconds since 1970; None without STARTTLS.
        mail_code: The reply to MAIL of a stranger.
    """

    failure: str | None = None
    has_tls: bool = False
    expires_at: float | None = None
    mail_code: int = 0


async def check(servers: Servers) -> list[Finding]:
    """Judge the records of all, and ask those that can be reached from here."""
    ingresses = [asdict(record) for record in await servers.ask_redis(read_ingresses)]
    mark_foreign(ingresses, await read_database(servers))
    reachable = [
        i for i in ingresses if i['gone_s'] is None and not i['foreign'] and _is_reachable(i)
    ]
    answers = await asyncio.gather(*(ask_as_stranger(i['place']) for i in reachable))
    return [
        *map(from_judge, judge_ingresses(ingresses)),
        *(
            finding
            for ingress, answer in zip(reachable, answers, strict=True)
            for finding in judge_answer(ingress, answer)
        ),
    ]


def _is_reachable(ingress: Document) -> bool:
    """Whether its address means the same here: some mean another machine on each."""
    machine, host = ingress['ingress'].rpartition(':')[0], _host_and_port(ingress['place'])[0]
    return machine == socket.gethostname() or not (is_loopback(host) or host in EVERY_ADDRESS)


def _host_and_port(place: str) -> tuple[str, int]:
    host, _, port = place.rpartition(':')
    return host.strip('[]'), int(port) if port.isdecimal() else 0


async def ask_as_stranger(place: str) -> StrangersAnswer:
    """Come as a stranger: EHLO, STARTTLS where it is offered, MAIL; nothing is submitted."""
    host, port = _host_and_port(place)
    client = aiosmtplib.SMTP(hostname=host, port=port, timeout=TIMEOUT_S, start_tls=False)
    expires_at = None
    try:
        async with asyncio.timeout(2 * TIMEOUT_S):
            await client.connect()
            await client.ehlo()
            if has_tls := client.supports_extension('starttls'):
                # Whoever submits verifies it by its own authorities; here only its end counts.
                await client.starttls(validate_certs=False)
                expires_at = _served_until(client)
                await client.ehlo()
            try:
                mail_code = (await client.mail(STRANGER)).code
            except aiosmtplib.SMTPSenderRefused as refused:
                mail_code = refused.code
            with contextlib.suppress(aiosmtplib.SMTPException):
                await client.quit()
    except (aiosmtplib.SMTPException, OSError, ValueError) as failed:
        return StrangersAnswer(failure=str(failed) or type(failed).__name__)
    finally:
        client.close()
    return StrangersAnswer(has_tls=has_tls, expires_at=expires_at, mail_code=mail_code)


def _served_until(client: aiosmtplib.SMTP) -> float | None:
    tls = client.get_transport_info('ssl_object')
    der = tls.getpeercert(binary_form=True) if tls is not None else None
    return certificate_ends_at(der) if der else None


def judge_answer(ingress: Document, answer: StrangersAnswer) -> Iterator[Finding]:
    """Judge what one that says it is there said."""
    where = f'the SMTP ingress {ingress["ingress"]} ({ingress["place"]})'
    if answer.failure is not None:
        yield error(f'{where} does not answer: {answer.failure}', 'see its log; open the firewall')
        return
    if is_loopback(_host_and_port(ingress['place'])[0]):
        return
    if answer.mail_code != NOT_LOGGED_IN:
        yield error(
            f'{where} takes mail from everybody who can reach it: '
            f'without a login, MAIL was answered by {answer.mail_code}',
            'see what answers there; `python -m ingress` asks for a token at such an address',
        )
    if not answer.has_tls:
        yield error(
            f'{where} offers no STARTTLS: tokens would travel in the clear',
            'set INGRESS_TLS_CERTIFICATE',
        )
    elif answer.expires_at is not None and answer.expires_at < time.time():
        yield error(
            f'{where} shows a certificate that has expired: clients refuse it',
            'renew it; `kill -HUP` has it read at once',
        )
