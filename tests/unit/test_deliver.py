"""One e-mail, one or two relays that misbehave at every verb: what becomes of it."""

import pytest

from mail.outcome import Outcome, Phase
from mail.progress import Progress
from mail.relay.options import RelayOptions, Tls
from mail.relay.pool import Relay
from tests.unit.scripted_relay import (
    DROP,
    MESSAGE,
    OFFERS_AUTH,
    SHORT_S,
    STALL,
    ScriptedRelay,
    Step,
    send,
)

pytestmark = pytest.mark.usefixtures('pipelining')

LOGIN = {'username': 'shop', 'password': 'hunter2'}
PHASES = {'MAIL': Phase.MAIL, 'RCPT': Phase.RCPT, 'DATA': Phase.DATA, 'DOT': Phase.REPLIED}


async def test_accepted_message_reaches_the_relay_with_its_envelope() -> None:
    async with ScriptedRelay() as relay:
        delivery = await send(relay.relay())
        assert relay.sessions[0].lines == [
            'EHLO test',
            'MAIL FROM:<shop@example.com>',
            'RCPT TO:<anna@example.com>',
            'DATA',
        ]
        assert relay.bodies == [MESSAGE]
    assert (delivery.outcome, delivery.phase, delivery.relay) == (
        Outcome.ACCEPTED,
        Phase.REPLIED,
        'primary',
    )
    assert str(delivery.reply) == '250 2.0.0 queued'
    assert (delivery.error, delivery.recipients) == (None, None)


@pytest.mark.parametrize('verb', PHASES)
@pytest.mark.parametrize(
    ('reply', 'outcome'),
    [
        ('451 4.7.1 greylisted', Outcome.DEFERRED),
        ('450 5.1.1 no such user', Outcome.DEFERRED),
        ('451 5.7.3 STARTTLS is required to send mail', Outcome.DEFERRED),
        ('554 spam', Outcome.REJECTED),
    ],
)
async def test_refusal_is_deferred_or_rejected_and_the_connection_is_kept(
    verb: str, reply: str, outcome: Outcome
) -> None:
    async with ScriptedRelay(
        {verb: [reply, '354 go ahead' if verb == 'DATA' else '250 ok']}
    ) as server:
        relay = server.relay()
        delivery = await send(relay)
        assert (delivery.outcome, delivery.phase) == (outcome, PHASES[verb])
        assert str(delivery.reply) == reply
        assert reply in (delivery.error or '') or reply[4:] in (delivery.error or '')
        assert relay.unavailable_for_s() == 0
        assert (await send(relay)).outcome is Outcome.ACCEPTED
        assert len(server.sessions) == 1


@pytest.mark.parametrize(
    ('verb', 'reply', 'outcome'),
    [
        ('MAIL', '354 what', Outcome.DEFERRED),
        ('RCPT', '199 what', Outcome.DEFERRED),
        ('DATA', '250 what', Outcome.DEFERRED),
        ('MAIL', 'what', Outcome.DEFERRED),
        ('DATA', 'what', Outcome.DEFERRED),
        ('DOT', 'what', Outcome.UNCERTAIN),
        ('DOT', '354 what', Outcome.DEFERRED),
    ],
)
async def test_nonsense_is_deferred_and_uncertain_after_the_dot(
    verb: str, reply: str, outcome: Outcome
) -> None:
    async with ScriptedRelay({verb: reply}) as server:
        assert (await send(server.relay())).outcome is outcome


@pytest.mark.parametrize('verb', ['GREETING', 'EHLO', 'AUTH', 'MAIL', 'RCPT', 'DATA'])
@pytest.mark.parametrize('action', [DROP, STALL])
async def test_connection_lost_or_silent_before_the_body_counts_only_once_the_dialogue_began(
    verb: str, action: str
) -> None:
    async with ScriptedRelay({'EHLO': OFFERS_AUTH, verb: action}) as server:
        short = 'command_timeout_s' if verb in PHASES else 'connect_timeout_s'
        delivery = await send(
            server.relay(**LOGIN, **({short: SHORT_S} if action == STALL else {}))
        )
        assert delivery.outcome is (Outcome.DEFERRED if verb in PHASES else Outcome.RELEASED)
        assert delivery.phase is PHASES.get(verb, Phase.CONNECT)
        assert delivery.reply is None
        assert delivery.error
        await server.until(lambda: not server.open_sessions)


@pytest.mark.parametrize('action', [DROP, STALL])
async def test_no_reply_to_the_final_dot_is_uncertain(action: str) -> None:
    async with ScriptedRelay({'DOT': action}) as server:
        progress = Progress()
        delivery = await send(server.relay(reply_timeout_s=SHORT_S), progress=progress)
        assert (delivery.outcome, delivery.phase, delivery.reply) == (
            Outcome.UNCERTAIN,
            Phase.BODY_SENT,
            None,
        )
        assert progress.reached_data_end
        assert server.bodies == [MESSAGE]
        await server.until(lambda: not server.open_sessions)


@pytest.mark.parametrize(
    ('verb', 'outcome'), [('MAIL', Outcome.REJECTED), ('RCPT', Outcome.REJECTED)]
)
async def test_connection_lost_at_rset_leaves_the_answer_as_it_is(
    verb: str, outcome: Outcome
) -> None:
    async with ScriptedRelay({verb: '550 no', 'RSET': DROP}) as server:
        assert (await send(server.relay())).outcome is outcome


@pytest.mark.parametrize(
    ('verb', 'offered'),
    [
        *((verb, 'PLAIN') for verb in ('GREETING', 'EHLO', 'AUTH', 'MAIL', 'RCPT', 'DATA', 'DOT')),
        ('AUTH', 'PLAIN LOGIN'),
    ],
)
async def test_421_is_released_and_the_relay_cools_down(verb: str, offered: str) -> None:
    ehlo = f'250-relay.test\r\n250 AUTH {offered}'
    async with ScriptedRelay({'EHLO': ehlo, verb: ('421 4.3.2 closing', DROP)}) as server:
        relay = server.relay(**LOGIN)
        delivery = await send(relay)
        assert delivery.outcome is Outcome.RELEASED
        assert 0 < relay.unavailable_for_s() <= 2
        assert delivery.retry_in_s == pytest.approx(relay.unavailable_for_s(), abs=0.1)
        assert delivery.reply is not None
        assert delivery.reply.code == 421


@pytest.mark.parametrize(
    'script',
    [
        {'AUTH': '535 5.7.8 bad credentials'},
        {'AUTH': ('535 5.7.8 bad credentials', DROP)},
        {'AUTH': '454 4.7.0 temporary failure'},
        {'AUTH': '334 ', 'CREDENTIALS': '535 5.7.8 bad credentials'},
        {'EHLO': '250 relay.test'},
        {'MAIL': '530 5.7.0 authentication required'},
        {'MAIL': '535 5.7.8 log in again'},
    ],
    ids=str,
)
async def test_refused_login_is_released_and_tells_no_password(script: dict[str, Step]) -> None:
    async with ScriptedRelay({'EHLO': OFFERS_AUTH, **script}) as server:
        relay = server.relay(**LOGIN)
        delivery = await send(relay)
        assert delivery.outcome is Outcome.RELEASED
        assert relay.unavailable_for_s() > 0
        assert 'hunter2' not in str(delivery)
        assert server.bodies == []


# Two relays.


@pytest.mark.parametrize(
    'script',
    [
        {'MAIL': '451 later'},
        {'RCPT': '451 later'},
        {'DATA': '451 later'},
        {'DOT': '451 later'},
        {'GREETING': '421 busy'},
        {'RCPT': '421 busy'},
        {'DOT': '421 busy'},
        {'GREETING': '554 no service'},
        {'MAIL': DROP},
        {'DATA': DROP},
        {'AUTH': '535 bad credentials'},
        {'EHLO': f'{OFFERS_AUTH.replace("250 AUTH", "250-AUTH")}\r\n250 SIZE 10'},
    ],
    ids=str,
)
async def test_backup_takes_what_the_primary_could_not(script: dict[str, Step]) -> None:
    async with (
        ScriptedRelay({'EHLO': OFFERS_AUTH, **script}) as primary,
        ScriptedRelay(name='backup') as backup,
    ):
        delivery = await send(primary.relay(**LOGIN), backup.relay())
        assert (delivery.outcome, delivery.relay) == (Outcome.ACCEPTED, 'backup')
        assert backup.bodies == [MESSAGE]


async def test_backup_takes_what_an_unreachable_primary_could_not(free_port: int) -> None:
    async with ScriptedRelay(name='backup') as backup:
        primary = Relay(
            RelayOptions('primary', '127.0.0.1', free_port, Tls.NONE, local_hostname='test')
        )
        delivery = await send(primary, backup.relay())
        assert (delivery.outcome, delivery.relay) == (Outcome.ACCEPTED, 'backup')
        assert primary.unavailable_for_s() > 0


@pytest.mark.parametrize(
    ('script', 'outcome'),
    [
        ({'MAIL': '550 no'}, Outcome.REJECTED),
        ({'RCPT': '550 no'}, Outcome.REJECTED),
        ({'RCPT': '551 5.1.6 moved'}, Outcome.REJECTED),
        ({'DATA': '554 no'}, Outcome.REJECTED),
        ({'DOT': '554 no'}, Outcome.REJECTED),
        ({'DOT': DROP}, Outcome.UNCERTAIN),
        ({}, Outcome.ACCEPTED),
    ],
    ids=str,
)
async def test_backup_is_not_asked_after_a_final_or_unknown_outcome(
    script: dict[str, Step], outcome: Outcome
) -> None:
    async with ScriptedRelay(script) as primary, ScriptedRelay(name='backup') as backup:
        assert (await send(primary.relay(), backup.relay())).outcome is outcome
        assert backup.sessions == []


@pytest.mark.parametrize(
    ('primary_says', 'backup_says', 'outcome'),
    [
        ('421 busy', '451 later', Outcome.DEFERRED),
        ('451 later', '421 busy', Outcome.DEFERRED),
        ('421 busy', '421 busy', Outcome.RELEASED),
        ('421 busy', '550 no', Outcome.REJECTED),
    ],
)
async def test_attempt_counts_when_any_relay_answered(
    primary_says: str, backup_says: str, outcome: Outcome
) -> None:
    async with (
        ScriptedRelay({'RCPT': primary_says}) as primary,
        ScriptedRelay({'RCPT': backup_says}, 'backup') as backup,
    ):
        assert (await send(primary.relay(), backup.relay())).outcome is outcome


async def test_relays_that_cool_down_are_not_asked() -> None:
    async with ScriptedRelay() as primary, ScriptedRelay(name='backup') as backup:
        relays = primary.relay(), backup.relay()
        for relay in relays:
            relay.cool_down('a test')
        delivery = await send(*relays)
        assert delivery.outcome is Outcome.RELEASED
        assert 0 < delivery.retry_in_s <= 2.0
        assert (primary.sessions, backup.sessions) == ([], [])


# SIZE (RFC 1870) of two relays.


def takes(limit_bytes: int) -> str:
    return f'250-relay.test\r\n250 SIZE {limit_bytes}'


async def test_message_over_the_size_of_all_relays_is_rejected_and_each_limit_named() -> None:
    async with (
        ScriptedRelay({'EHLO': takes(10)}) as primary,
        ScriptedRelay({'EHLO': takes(20)}, 'backup') as backup,
    ):
        relays = primary.relay(), backup.relay()
        delivery = await send(*relays)
        assert (delivery.outcome, delivery.phase) == (Outcome.REJECTED, Phase.CONNECT)
        assert delivery.reply is not None
        assert (delivery.reply.code, delivery.reply.enhanced_code) == (552, '5.3.4')
        for limit in (
            "primary: 5.3.4 message of 26 bytes is over the relay's 10",
            "is over the relay's 20",
        ):
            assert limit in (delivery.error or '')
        assert [relay.unavailable_for_s() for relay in relays] == [0, 0]
        assert 'MAIL' not in primary.verbs + backup.verbs


@pytest.mark.parametrize(
    ('script', 'outcome', 'code'),
    [
        ({'RCPT': '451 later'}, Outcome.DEFERRED, 451),
        ({'RCPT': '421 busy'}, Outcome.RELEASED, 421),
        ({'GREETING': DROP}, Outcome.RELEASED, None),
        ({'RCPT': '550 no'}, Outcome.REJECTED, 550),
        ({'DOT': DROP}, Outcome.UNCERTAIN, None),
    ],
    ids=str,
)
async def test_message_over_the_size_of_the_primary_becomes_what_the_backup_makes_of_it(
    script: dict[str, Step], outcome: Outcome, code: int | None
) -> None:
    async with (
        ScriptedRelay({'EHLO': takes(10)}) as primary,
        ScriptedRelay(script, 'backup') as backup,
    ):
        delivery = await send(primary.relay(), backup.relay())
        assert delivery.outcome is outcome
        assert (delivery.reply.code if delivery.reply else None) == code


async def test_message_over_the_size_of_the_primary_waits_for_a_backup_that_cools_down() -> None:
    async with (
        ScriptedRelay({'EHLO': takes(10)}) as primary,
        ScriptedRelay(name='backup') as backup,
    ):
        relays = primary.relay(), backup.relay()
        relays[1].cool_down('a test')
        delivery = await send(*relays)
        assert delivery.outcome is Outcome.RELEASED
        assert (
            delivery.retry_in_s == 30
        )  # the primary is well, but asking it again at once is of no use
        assert "over the relay's 10" in (delivery.error or '')
