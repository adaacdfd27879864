"""`python -m ingress`: take mail by SMTP until SIGTERM."""

import asyncio
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Coroutine
from typing import Any

import structlog
import uvloop

from configuration.version import program_version
from engine.urls import is_loopback
from ingress.certificate import Certificate
from ingress.door import Door, IngressRules
from ingress.listener import Listener
from ingress.report import IngressReport
from logs import configure_logs
from process import memory
from process.supervisor import Supervisor
from reporting.servers import ServerAddresses, redis_of
from reporting.within_deadline import DeadlineServers
from settings import Settings, load_settings

log = structlog.get_logger()

DEADLINE_S = 10.0  # for a commit; clients wait for minutes (RFC 5321, 4.5.3.2.6)
FINISH_S = DEADLINE_S + 1  # messages that are being received when the stop comes
POOL_SIZE = 4
GOODBYE_S = 2.0  # for a Redis that does not answer: the record expires by itself


def check_exposure(settings: Settings) -> None:
    """Refuse to take mail from everybody.

    Raises:
        SystemExit: other machines reach the address, and there is no certificate for STARTTLS,
            without which tokens would travel in the clear.
    """
    if not is_loopback(settings.ingress_host) and settings.ingress_tls_certificate is None:
        raise SystemExit(
            f'ingress: INGRESS_HOST={settings.ingress_host} can be reached from other machines: '
            'set INGRESS_TLS_CERTIFICATE (clients then need STARTTLS, and a token of '
            '`python -m ops token create NAME --scope send` as their password), '
            'or listen on 127.0.0.1 (docs/ingress.md)'
        )


def load_certificate(settings: Settings) -> Certificate | None:
    """Return how STARTTLS is done; None where it is not offered.

    Raises:
        SystemExit: the files cannot be read, or do not belong together.
    """
    certificate, key = settings.ingress_tls_certificate, settings.ingress_tls_key
    if certificate is None:
        return None
    try:
        return Certificate(certificate, key)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise SystemExit(
            f'ingress: INGRESS_TLS_CERTIFICATE={certificate} with INGRESS_TLS_KEY={key or ""}: '
            f'{error}'
        ) from error


def rules_of(settings: Settings) -> IngressRules:
    """Return what the settings ask of clients.

    Raises:
        SystemExit: see load_certificate and check_exposure.
    """
    check_exposure(settings)
    if settings.ingress_lmtp is not None and settings.return_paths is None:
        raise SystemExit('ingress: INGRESS_LMTP takes reports alone, and needs BOUNCE_ADDRESS')
    is_local = is_loopback(settings.ingress_host)
    return IngressRules(
        host_name=socket.gethostname(),
        is_local=is_local,
        needs_token=settings.ingress_require_auth or not is_local,
        certificate=load_certificate(settings),
        max_message_bytes=settings.email_max_bytes,
        max_bytes_in_flight=max(settings.ingress_max_bytes_in_flight, settings.email_max_bytes),
        max_connections=settings.ingress_max_connections,
        timeout_s=settings.ingress_timeout_s,
        own_address=settings.smtp_from_email,
        expiry_hours=settings.email_expiry_hours,
        message_id_is_key=settings.ingress_message_id_is_key,
        return_paths=settings.return_paths,
    )


async def take_mail(settings: Settings, rules: IngressRules) -> None:
    """Serve until SIGTERM or SIGINT; then messages under way may finish.

    SIGHUP has the certificate read again.
    """
    stopping = asyncio.Event()
    handle_signals(stopping, rules.certificate)
    addresses = ServerAddresses(
        settings.postgres_dsn,
        settings.arq_redis_url.get_secret_value(),
        naive_timezone=settings.db_naive_timezone,
        is_dsn_given=settings.database_url is not None,
    )
    servers = DeadlineServers(
        addresses, DEADLINE_S, pool_size=POOL_SIZE, application_name='email-ingress'
    )
    redis = redis_of(addresses.redis_url, 'ARQ_REDIS_URL')
    door = Door(rules, servers)
    listener = Listener(door)
    port = await listener.open(settings.ingress_host, settings.ingress_port)
    if settings.ingress_lmtp is not None:
        await listener.open_lmtp(settings.ingress_lmtp)
    host = f'[{settings.ingress_host}]' if ':' in settings.ingress_host else settings.ingress_host
    place = f'{host}:{port}'
    memory.settle()
    log.info('ingress.started', place=place, token_wanted=rules.needs_token)
    report = IngressReport(door, listener, place, program_version())
    beside: list[Coroutine[Any, Any, None]] = [
        report.keep(redis, servers),
        Supervisor(settings.health_file).keep_informed(
            stopping, 0, f'Taking mail at {place}', 'Finishing what is being received'
        ),
    ]
    if rules.certificate is not None:
        beside.append(rules.certificate.keep_fresh())
    tasks = [asyncio.create_task(task) for task in beside]
    await stopping.wait()
    await listener.close(FINISH_S)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=GOODBYE_S)
    await asyncio.gather(door.close(), redis.aclose(), return_exceptions=True)
    log.info('ingress.stopped')


def handle_signals(stopping: asyncio.Event, certificate: Certificate | None) -> None:
    """Have signals do what they are for."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    def read_again() -> None:
        if certificate is not None:
            certificate.read_again()

    loop.add_signal_handler(signal.SIGHUP, read_again)


def main() -> int:
    """Read the settings and serve. Returns the exit status."""
    settings = load_settings()
    configure_logs(settings.log_level, settings.log_format)
    settings.start_observing('email-ingress', socket.gethostname())
    # aiosmtpd's: a line for each command. What matters has events of ours.
    logging.getLogger('mail.log').setLevel(logging.CRITICAL)
    rules = rules_of(settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(take_mail(settings, rules))
    return 0


if __name__ == '__main__':
    sys.exit(main())
