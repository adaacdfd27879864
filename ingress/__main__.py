"""`python -m ingress`: take mail by SMTP until SIGTERM."""

import asyncio
import logging
import signal
import socket
import ssl
import sys

import structlog
import uvloop

from engine.urls import is_loopback
from ingress.door import Door, IngressRules
from ingress.listener import Listener
from logs import configure_logs
from process.supervisor import Supervisor
from reporting.servers import ServerAddresses
from reporting.within_deadline import DeadlineServers
from settings import Settings, load_settings

log = structlog.get_logger()

DEADLINE_S = 10.0  # for a commit; clients wait for minutes (RFC 5321, 4.5.3.2.6)
FINISH_S = DEADLINE_S + 1  # messages that are being received when the stop comes
POOL_SIZE = 4


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


def load_certificate(settings: Settings) -> ssl.SSLContext | None:
    """Return how STARTTLS is done; None where it is not offered.

    Raises:
        SystemExit: the files cannot be read, or do not belong together.
    """
    certificate, key = settings.ingress_tls_certificate, settings.ingress_tls_key
    if certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise SystemExit(
            f'ingress: INGRESS_TLS_CERTIFICATE={certificate} with INGRESS_TLS_KEY={key or ""}: '
            f'{error}'
        ) from error
    return context


def rules_of(settings: Settings) -> IngressRules:
    """Return what the settings ask of clients.

    Raises:
        SystemExit: see load_certificate and check_exposure.
    """
    check_exposure(settings)
    is_local = is_loopback(settings.ingress_host)
    return IngressRules(
        host_name=socket.gethostname(),
        is_local=is_local,
        needs_token=settings.ingress_require_auth or not is_local,
        tls_context=load_certificate(settings),
        max_message_bytes=settings.email_max_bytes,
        max_bytes_in_flight=max(settings.ingress_max_bytes_in_flight, settings.email_max_bytes),
        max_connections=settings.ingress_max_connections,
        timeout_s=settings.ingress_timeout_s,
        own_address=settings.smtp_from_email,
        expiry_hours=settings.email_expiry_hours,
        message_id_is_key=settings.ingress_message_id_is_key,
    )


async def take_mail(settings: Settings, rules: IngressRules) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP; then messages under way may finish."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    addresses = ServerAddresses(
        settings.postgres_dsn,
        settings.arq_redis_url.get_secret_value(),
        naive_timezone=settings.db_naive_timezone,
        is_dsn_given=settings.database_url is not None,
    )
    servers = DeadlineServers(
        addresses, DEADLINE_S, pool_size=POOL_SIZE, application_name='email-ingress'
    )
    door = Door(rules, servers)
    listener = Listener(door)
    port = await listener.open(settings.ingress_host, settings.ingress_port)
    host = f'[{settings.ingress_host}]' if ':' in settings.ingress_host else settings.ingress_host
    place = f'{host}:{port}'
    log.info('ingress.started', place=place, token_wanted=rules.needs_token)
    informing = asyncio.create_task(
        Supervisor(settings.health_file).keep_informed(
            stopping, 0, f'Taking mail at {place}', 'Finishing what is being received'
        )
    )
    await stopping.wait()
    await listener.close(FINISH_S)
    informing.cancel()
    await asyncio.gather(door.close(), informing, return_exceptions=True)
    log.info('ingress.stopped')


def main() -> int:
    """Read the settings and serve. Returns the exit status."""
    settings = load_settings()
    configure_logs(settings.log_level, settings.log_format)
    # aiosmtpd's: a line for each command. What matters has events of ours.
    logging.getLogger('mail.log').setLevel(logging.CRITICAL)
    rules = rules_of(settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(take_mail(settings, rules))
    return 0


if __name__ == '__main__':
    sys.exit(main())
