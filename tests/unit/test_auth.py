"""Logging in to relays whose mechanisms are broken, or whose password is not ours."""

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mail.outcome import Delivery, Outcome
from mail.relay.pool import Relay
from mail.relay.token import MAX_BYTES, TokenError, TokenSource
from tests.unit.scripted_relay import DROP, STALL, Clock, ScriptedRelay, send

LOGIN = {'username': 'shop', 'password': 'hunter2'}
BROKEN = '535 5.7.8 no'
CHALLENGE = '334 ' + base64.b64encode(b'<1@relay.test>').decode()


class AuthRelay(ScriptedRelay):
    """Answers each mechanism with a step of its own, which may ask for more.

    '*' takes an exchange back.
    """

    def __init__(self, offers: str, **by_mechanism: Any) -> None:
        super().__init__({'EHLO': f'250-relay.test\r\n250 AUTH {offers}'})
        self.by_mechanism = {
            name.replace('_', '-').upper(): step for name, step in by_mechanism.items()
        }
        self.answers: list[str] = []

    async def _do(self, key: str, session: Any, reader: Any, writer: Any) -> str:
        if key == 'AUTH':
            mechanism = session.lines[-1].split()[1]
            step, said = self.by_mechanism.get(mechanism, '235 2.7.0 welcome'), ''
            for action in (step,) if isinstance(step, str) else step:
                if action.startswith('334') and action is not step:
                    writer.write(action.encode() + b'\r\n')
                    self.answers.append((await reader.readuntil(b'\r\n')).decode().strip())
                    continue
                self.script['AUTH'] = action
                said = await super()._do('AUTH', session, reader, writer)
            return said
        if key == 'CREDENTIALS':
            self.script['CREDENTIALS'] = '501 taken back'
        return await super()._do(key, session, reader, writer)

    @property
    def tried(self) -> list[str]:
        """The mechanisms that were tried, in order."""
        return [
            line.split()[1] for s in self.sessions for line in s.lines if line.startswith('AUTH')
        ]


async def outcome(relay: Relay) -> Outcome:
    return (await send(relay)).outcome


@pytest.mark.parametrize(
    ('offers', 'used'),
    [
        ('PLAIN LOGIN CRAM-MD5', 'CRAM-MD5'),
        ('LOGIN PLAIN', 'PLAIN'),
        ('LOGIN', 'LOGIN'),
        ('GSSAPI LOGIN XOAUTH2', 'LOGIN'),
    ],
)
async def test_strongest_mechanism_that_both_know_is_tried_first(offers: str, used: str) -> None:
    async with AuthRelay(
        offers, cram_md5=(CHALLENGE, '235 ok'), login=('334 UGFzc3dvcmQ6', '235 ok')
    ) as server:
        assert await outcome(server.relay(**LOGIN)) is Outcome.ACCEPTED
        assert server.tried == [used]


@pytest.mark.parametrize(
    'broken',
    ['504 5.5.4 unrecognized', BROKEN, '500 what', '534 5.7.9 too weak',
        '538 5.7.11 needs encryption', '334 %%%',
     (CHALLENGE, BROKEN), (CHALLENGE, '334 more', '501 taken back')],
)  # fmt: skip
async def test_mechanism_that_is_broken_is_followed_by_the_next_and_not_tried_again(
    broken: Any,
) -> None:
    async with AuthRelay('CRAM-MD5 PLAIN', cram_md5=broken) as server:
        relay = server.relay(**LOGIN)
        assert await outcome(relay) is Outcome.ACCEPTED
        assert server.tried == ['CRAM-MD5', 'PLAIN']
        assert len(server.sessions) == 1
        relay.close_idle(older_than_s=0)
        assert await outcome(relay) is Outcome.ACCEPTED
        assert server.tried == ['CRAM-MD5', 'PLAIN', 'PLAIN']


async def test_plain_that_is_broken_is_followed_by_login() -> None:
    async with AuthRelay(
        'PLAIN LOGIN', plain=BROKEN, login=('334 UGFzc3dvcmQ6', '235 ok')
    ) as server:
        assert await outcome(server.relay(**LOGIN)) is Outcome.ACCEPTED
        assert server.tried == ['PLAIN', 'LOGIN']


@pytest.mark.parametrize('broken', [DROP, STALL])
async def test_relay_that_falls_over_a_mechanism_is_asked_by_the_next_one_afterwards(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr('mail.relay.pool.time', clock)
    async with AuthRelay('CRAM-MD5 PLAIN', cram_md5=broken) as server:
        relay = server.relay(**LOGIN, connect_timeout_s=1.0 if broken == STALL else 20.0)
        assert await outcome(relay) is Outcome.RELEASED
        clock.now_s += 3
        assert await outcome(relay) is Outcome.ACCEPTED
        assert server.tried == ['CRAM-MD5', 'PLAIN']


async def test_wrong_password_is_tried_once_by_each_mechanism_and_then_once_for_each_cool_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr('mail.relay.pool.time', clock)
    async with AuthRelay('PLAIN LOGIN', plain=BROKEN, login=BROKEN) as server:
        relay = server.relay(**LOGIN)
        done = await asyncio.gather(*(send(relay) for _ in range(20)))
        assert {delivery.outcome for delivery in done} == {Outcome.RELEASED}
        assert server.tried == ['PLAIN', 'LOGIN']
        told = {
            delivery.error
            for delivery in done
            if 'does not accept our user name' in (delivery.error or '')
        }
        assert any('PLAIN: 535 5.7.8 no; LOGIN: 535 5.7.8 no' in (text or '') for text in told)
        for _ in range(4):
            clock.now_s += 1000
            await asyncio.gather(*(send(relay) for _ in range(5)))
        assert server.tried[2:] == ['LOGIN', 'PLAIN', 'LOGIN', 'PLAIN']
        server.by_mechanism['LOGIN'] = (
            '334 UGFzc3dvcmQ6',
            '235 ok',
        )  # the password is right again, PLAIN is broken
        clock.now_s += 1000
        assert await outcome(relay) is Outcome.ACCEPTED


async def test_password_that_changed_is_not_tried_by_the_other_mechanisms_at_once() -> None:
    async with AuthRelay('PLAIN LOGIN') as server:
        relay = server.relay(**LOGIN)
        assert await outcome(relay) is Outcome.ACCEPTED
        relay.close_idle(older_than_s=0)
        server.by_mechanism |= {'PLAIN': BROKEN, 'LOGIN': BROKEN}
        assert await outcome(relay) is Outcome.RELEASED
        assert server.tried == ['PLAIN', 'PLAIN']


@pytest.mark.parametrize(
    'said', ['454 4.7.0 temporary failure', '530 5.7.0 STARTTLS first', '421 4.3.2 busy']
)
async def test_problem_of_the_server_is_not_answered_with_another_mechanism(said: str) -> None:
    async with AuthRelay('PLAIN LOGIN', plain=said) as server:
        assert await outcome(server.relay(**LOGIN)) is Outcome.RELEASED
        assert server.tried == ['PLAIN']


async def test_setting_chooses_mechanisms_and_their_order() -> None:
    async with AuthRelay('CRAM-MD5 PLAIN LOGIN', login=BROKEN) as server:
        relay = server.relay(**LOGIN, auth_mechanisms=('login', 'plain'))
        assert await outcome(relay) is Outcome.ACCEPTED
        assert server.tried == ['LOGIN', 'PLAIN']


async def test_relay_that_offers_none_of_the_chosen_mechanisms_is_told_nothing() -> None:
    async with AuthRelay('PLAIN LOGIN') as server:
        delivery = await send(server.relay(**LOGIN, auth_mechanisms=('cram-md5',)))
        assert delivery.outcome is Outcome.RELEASED
        assert 'it offers PLAIN LOGIN; we use CRAM-MD5' in (delivery.error or '')
        assert server.tried == []


@pytest.mark.parametrize(
    ('chosen', 'tried'), [((), ['CRAM-MD5']), (('cram-md5', 'plain'), ['CRAM-MD5', 'PLAIN'])]
)
async def test_password_does_not_follow_a_broken_proof_of_it_in_the_clear_unless_chosen(
    monkeypatch: pytest.MonkeyPatch, chosen: tuple[str, ...], tried: list[str]
) -> None:
    monkeypatch.setattr(
        'mail.relay.auth._is_private', lambda _: False
    )  # as if it were not on this machine
    async with AuthRelay('CRAM-MD5 PLAIN', cram_md5=BROKEN) as server:
        await send(server.relay(**LOGIN, auth_mechanisms=chosen))
        assert server.tried == tried


# Tokens.


def bearer(line: str) -> str:
    return base64.b64decode(line.split()[2]).decode().split('\x01')[1].removeprefix('auth=Bearer ')


def tokens(server: AuthRelay) -> list[str]:
    return [
        bearer(line) for s in server.sessions for line in s.lines if line.startswith('AUTH XOAUTH2')
    ]


def counting(tmp_path: Path, form: str = '{n}') -> list[str]:
    """A command that prints another token each time."""
    script = f"""
import pathlib
runs = pathlib.Path({str(tmp_path / 'runs')!r})
n = len(runs.read_text()) + 1 if runs.exists() else 1
runs.write_text('x' * n)
print({form!r}.replace('{{n}}', f'token-{{n}}'))
"""
    return [sys.executable, '-c', script]


async def delivered(
    server: ScriptedRelay, token: TokenSource, times: int = 1, **options: Any
) -> Delivery:
    relay = server.relay(username='shop', token=token, **options)
    for _ in range(times):
        delivery = await send(relay)
        relay.close_idle(older_than_s=0)
    return delivery


async def test_token_from_a_file_is_read_for_each_login(tmp_path: Path) -> None:
    file = tmp_path / 'token'
    file.write_text('first\n')
    async with AuthRelay('PLAIN XOAUTH2') as server:
        relay = server.relay(username='shop', token=TokenSource(file=file))
        assert await outcome(relay) is Outcome.ACCEPTED
        relay.close_idle(older_than_s=0)
        file.write_text('{"access_token": "second", "expires_in": 3599}')
        assert await outcome(relay) is Outcome.ACCEPTED
        assert tokens(server) == ['first', 'second']


async def test_command_is_run_once_for_many_connections_and_again_when_its_token_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr('mail.relay.token.time', clock)
    source = TokenSource(command=counting(tmp_path, '{"access_token": "{n}", "expires_in": 3600}'))
    assert set(await asyncio.gather(*(source.get() for _ in range(10)))) == {'token-1'}
    clock.now_s += 3600 - 61
    assert await source.get() == 'token-1'
    clock.now_s += 2
    assert await source.get() == 'token-2'


async def test_token_that_is_refused_is_replaced_at_once_and_only_once(tmp_path: Path) -> None:
    refusal = ('334 ' + base64.b64encode(json.dumps({'status': '400'}).encode()).decode(), BROKEN)
    async with AuthRelay('XOAUTH2', xoauth2=refusal) as server:
        delivery = await delivered(server, TokenSource(command=counting(tmp_path)))
        assert delivery.outcome is Outcome.RELEASED
        assert tokens(server) == ['token-1', 'token-2']
        assert server.answers == ['', '']
        assert len(server.sessions) == 1


async def test_token_comes_before_the_password_which_follows_it(tmp_path: Path) -> None:
    async with AuthRelay('PLAIN XOAUTH2', xoauth2=BROKEN) as server:
        delivery = await delivered(
            server, TokenSource(command=['/bin/echo', 'token']), password='hunter2'
        )
        assert delivery.outcome is Outcome.ACCEPTED
        assert list(dict.fromkeys(server.tried)) == ['XOAUTH2', 'PLAIN']


@pytest.mark.parametrize(
    ('command', 'told'),
    [
        (
            ['/bin/sh', '-c', 'echo no refresh token >&2; exit 3'],
            'ended with status 3: no refresh token',
        ),
        (['/bin/sh', '-c', 'exit 1'], 'ended with status 1'),
        (['/no/such/program'], 'cannot be run: No such file or directory'),
        (['/bin/true'], 'gave no token'),
        (['/bin/echo', 'two words'], 'gave no token'),
        (['/bin/echo', '{"error": "secret"}'], 'gave no token'),
        (['/bin/echo', '{"access_token": 7}'], 'gave no token'),
        (['/bin/echo', '{broken'], 'gave JSON that cannot be read'),
        (
            ['/usr/bin/env', 'head', '-c', str(MAX_BYTES + 1), '/dev/zero'],
            f'printed more than {MAX_BYTES} bytes',
        ),
        (['/bin/sh', '-c', 'sleep 600 & sleep 600'], 'did not end within 0.5 s'),
    ],
)
async def test_command_that_gives_no_token_says_why_and_costs_no_attempt(
    command: list[str], told: str
) -> None:
    async with AuthRelay('XOAUTH2') as server:
        source = TokenSource(command=command, timeout_s=0.5 if 'sleep' in command[-1] else 20)
        delivery = await delivered(server, source)
        assert delivery.outcome is Outcome.RELEASED
        assert f'primary: the token command {command[0]} {told}' in (delivery.error or '')
        assert 'secret' not in (delivery.error or '')
        assert server.tried == []


async def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match='cannot be read: No such file'):
        await TokenSource(file=tmp_path / 'absent').get()
