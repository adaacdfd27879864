"""TLS to the relay: required means required."""

import ssl
from pathlib import Path

import pytest

from dev.inbox_certificate import server_tls_context
from dev.inbox_store import CERTIFICATE_NAME
from mail.outcome import Outcome
from mail.relay.options import Tls, make_context
from tests.unit.scripted_relay import (
    DROP,
    MESSAGE,
    OFFERS_AUTH,
    START_TLS,
    Script,
    ScriptedRelay,
    rendered,
    send,
)


@pytest.fixture(scope='module')
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    directory = tmp_path_factory.mktemp('certificate')
    return server_tls_context(directory), directory / CERTIFICATE_NAME


STARTTLS_SCRIPT: Script = {
    'EHLO': [
        '250-relay.test\r\n250-AUTH PLAIN\r\n250 STARTTLS',
        '250-relay.test\r\n250 AUTH PLAIN',
    ],
    'STARTTLS': ('220 go ahead', START_TLS),
}


async def test_starttls_protects_the_login_and_the_mail(
    certificate: tuple[ssl.SSLContext, Path],
) -> None:
    server_context, certificate_path = certificate
    context = ssl.create_default_context(cafile=certificate_path)
    async with ScriptedRelay(STARTTLS_SCRIPT, tls_context=server_context) as server:
        relay = server.relay(
            tls=Tls.STARTTLS, tls_context=context, username='shop', password='hunter2'
        )
        assert (await send(relay)).outcome is Outcome.ACCEPTED
        assert server.sessions[0].tls
        assert server.verbs == ['EHLO', 'STARTTLS', 'EHLO', 'AUTH', 'MAIL', 'RCPT', 'DATA']
        relay.close_idle(older_than_s=0)


@pytest.mark.parametrize(
    'script',
    [
        {'EHLO': OFFERS_AUTH},
        {**STARTTLS_SCRIPT, 'STARTTLS': '454 4.7.0 not available'},
        {**STARTTLS_SCRIPT, 'STARTTLS': DROP},
        STARTTLS_SCRIPT,
    ],
    ids=['not offered', 'refused', 'dropped', 'certificate of nobody we trust'],
)
async def test_relay_without_the_required_tls_costs_no_attempt_and_is_told_nothing(
    script: Script, certificate: tuple[ssl.SSLContext, Path]
) -> None:
    async with ScriptedRelay(script, tls_context=certificate[0]) as server:
        relay = server.relay(
            tls=Tls.STARTTLS,
            tls_context=ssl.create_default_context(),
            username='shop',
            password='hunter2',
        )
        assert (await send(relay)).outcome is Outcome.RELEASED
        await server.until(lambda: not server.open_sessions)
        assert {'AUTH', 'MAIL'}.isdisjoint(server.verbs)
        assert relay.unavailable_for_s() > 0


def encrypted(
    certificate: tuple[ssl.SSLContext, Path], tls: Tls, script: Script | None = None
) -> ScriptedRelay:
    polite = STARTTLS_SCRIPT if tls is Tls.STARTTLS else {}
    return ScriptedRelay(
        {**polite, **(script or {})}, tls_context=certificate[0], tls_at_once=tls is Tls.IMPLICIT
    )


def big_message(size_bytes: int) -> bytes:
    return MESSAGE + (b'x' * 70 + b'\r\n') * (size_bytes // 72)


@pytest.mark.parametrize('tls', [Tls.STARTTLS, Tls.IMPLICIT])
@pytest.mark.parametrize('size_bytes', [100, 65_000, 66_000, 1_000_000])
async def test_message_of_any_size_goes_through_tls_and_the_connection_is_kept(
    certificate: tuple[ssl.SSLContext, Path], tls: Tls, size_bytes: int
) -> None:
    message = big_message(size_bytes)
    async with encrypted(certificate, tls) as server:
        relay = server.relay(tls=tls, tls_context=ssl.create_default_context(cafile=certificate[1]))
        for _ in range(2):
            assert (await send(relay, mail=rendered(message=message))).outcome is Outcome.ACCEPTED
        assert server.bodies == [message] * 2
        assert len(server.sessions) == 1
        relay.close_idle(older_than_s=0)


@pytest.mark.parametrize('tls', [Tls.STARTTLS, Tls.IMPLICIT])
@pytest.mark.parametrize(
    ('script', 'size_bytes', 'outcome'),
    [
        (
            {'BODY': DROP},
            16_000_000,
            Outcome.DEFERRED,
        ),  # more than the kernel takes from us ahead of the relay
        ({'DOT': DROP}, 200_000, Outcome.UNCERTAIN),
    ],
    ids=['in the body', 'after the dot'],
)
async def test_lost_connection_means_the_same_over_tls(
    certificate: tuple[ssl.SSLContext, Path],
    tls: Tls,
    script: Script,
    size_bytes: int,
    outcome: Outcome,
) -> None:
    async with encrypted(certificate, tls, script) as server:
        relay = server.relay(tls=tls, tls_context=ssl.create_default_context(cafile=certificate[1]))
        assert (
            await send(relay, mail=rendered(message=big_message(size_bytes)))
        ).outcome is outcome


async def test_second_connection_resumes_the_first_ones_session(
    certificate: tuple[ssl.SSLContext, Path],
) -> None:
    server_context, certificate_path = certificate
    script = {'EHLO': [*STARTTLS_SCRIPT['EHLO']] * 2, 'STARTTLS': STARTTLS_SCRIPT['STARTTLS']}
    async with ScriptedRelay(script, tls_context=server_context) as server:
        relay = server.relay(tls=Tls.STARTTLS, tls_context=make_context(certificate_path))
        resumed = []
        for _ in range(2):
            assert (await send(relay)).outcome is Outcome.ACCEPTED
            (session,) = relay._sessions
            resumed.append(session._transport.get_extra_info('ssl_object').session_reused)
            relay.close_idle(older_than_s=0)
        assert resumed == [False, True]


async def test_make_context_trusts_nobody_but_whom_it_is_told_to(
    certificate: tuple[ssl.SSLContext, Path],
) -> None:
    for context, outcome in (
        (make_context(certificate[1]), Outcome.ACCEPTED),
        (make_context(None), Outcome.RELEASED),
    ):
        async with ScriptedRelay(STARTTLS_SCRIPT, tls_context=certificate[0]) as server:
            relay = server.relay(tls=Tls.STARTTLS, tls_context=context)
            assert (await send(relay)).outcome is outcome
            relay.close_idle(older_than_s=0)
