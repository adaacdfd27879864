"""One e-mail to several recipients: each has its own outcome."""

import asyncio

import pytest

from mail.outcome import Outcome, Settled
from mail.progress import Progress
from tests.unit.scripted_relay import (
    ANNA,
    BOB,
    CARL,
    DROP,
    STALL,
    ScriptedRelay,
    rendered,
    send,
)

pytestmark = pytest.mark.usefixtures('pipelining')


async def test_accepted_recipient_gets_no_second_copy_when_the_other_is_tried_again() -> None:
    async with ScriptedRelay({f'RCPT <{BOB}>': ['451 4.2.2 full', '250 ok']}) as server:
        relay, mail = server.relay(), rendered(ANNA, BOB)
        first = await send(relay, mail=mail)
        assert first.outcome is Outcome.DEFERRED
        assert first.recipients == {
            ANNA: (Outcome.ACCEPTED, '250 2.0.0 queued'),
            BOB: (Outcome.DEFERRED, '451 4.2.2 full'),
        }
        second = await send(relay, mail=mail, settled=first.recipients)
        assert second.outcome is Outcome.ACCEPTED
        assert second.recipients == dict.fromkeys(
            [ANNA, BOB], (Outcome.ACCEPTED, '250 2.0.0 queued')
        )
        assert server.recipients == [ANNA, BOB, BOB]


@pytest.mark.parametrize(
    ('to_anna', 'to_bob', 'outcome'),
    [
        ('250 ok', '250 ok', Outcome.ACCEPTED),
        ('250 ok', '550 no', Outcome.ACCEPTED),
        ('451 no', '550 no', Outcome.DEFERRED),
        ('550 no', '550 no', Outcome.REJECTED),
        ('250 ok', '451 no', Outcome.DEFERRED),
    ],
)
async def test_mixed_answers_are_kept_for_each_recipient(
    to_anna: str, to_bob: str, outcome: Outcome
) -> None:
    async with ScriptedRelay({f'RCPT <{ANNA}>': to_anna, f'RCPT <{BOB}>': to_bob}) as server:
        delivery = await send(server.relay(), mail=rendered(ANNA, BOB))
        assert delivery.outcome is outcome
        said = {recipient: reply for recipient, (_, reply) in (delivery.recipients or {}).items()}
        for recipient, reply in ((ANNA, to_anna), (BOB, to_bob)):
            assert said[recipient] == ('250 2.0.0 queued' if reply == '250 ok' else reply)
            assert (f'{recipient}: {reply}' in (delivery.error or '')) is (reply != '250 ok')


async def test_backup_gets_only_the_recipients_that_the_primary_deferred() -> None:
    async with (
        ScriptedRelay({f'RCPT <{BOB}>': '451 later'}) as primary,
        ScriptedRelay(name='backup') as backup,
    ):
        delivery = await send(primary.relay(), backup.relay(), mail=rendered(ANNA, BOB))
        assert (delivery.outcome, delivery.relay) == (Outcome.ACCEPTED, 'backup')
        assert backup.recipients == [BOB]


async def test_refusal_of_one_stands_when_the_dot_of_the_other_is_uncertain() -> None:
    async with ScriptedRelay({f'RCPT <{BOB}>': '550 no', 'DOT': [DROP, '250 ok']}) as server:
        relay, mail = server.relay(), rendered(ANNA, BOB)
        first = await send(relay, mail=mail)
        assert first.outcome is Outcome.UNCERTAIN
        assert {r: o for r, (o, _) in (first.recipients or {}).items()} == {
            ANNA: Outcome.UNCERTAIN,
            BOB: Outcome.REJECTED,
        }
        second = await send(relay, mail=mail, settled=first.recipients)
        assert second.outcome is Outcome.ACCEPTED
        assert server.recipients == [ANNA, BOB, ANNA]


async def test_e_mail_that_reached_one_recipient_is_accepted_though_the_other_is_refused() -> None:
    async with ScriptedRelay({f'RCPT <{BOB}>': '550 no'}) as server:
        settled = {ANNA: (Outcome.ACCEPTED, '250 ok'), BOB: (Outcome.DEFERRED, '451 later')}
        delivery = await send(server.relay(), mail=rendered(ANNA, BOB), settled=settled)
        assert delivery.outcome is Outcome.ACCEPTED
        assert f'{BOB}: 550 no' in (delivery.error or '')


@pytest.mark.parametrize(
    ('annas', 'bobs', 'asked'),
    [
        (Outcome.ACCEPTED, Outcome.REJECTED, [BOB]),
        (Outcome.REJECTED, Outcome.REJECTED, [ANNA, BOB]),
        (Outcome.ACCEPTED, Outcome.ACCEPTED, [ANNA, BOB]),
    ],
)
async def test_operators_retry_of_a_settled_e_mail_goes_to_the_refused_or_else_to_all(
    annas: Outcome, bobs: Outcome, asked: list[str]
) -> None:
    async with ScriptedRelay() as server:
        settled = {ANNA: (annas, 'said'), BOB: (bobs, 'said')}
        delivery = await send(server.relay(), mail=rendered(ANNA, BOB), settled=settled)
        assert delivery.outcome is Outcome.ACCEPTED
        assert server.recipients == asked


async def test_progress_tells_what_is_known_of_each_recipient_when_the_other_relay_fails() -> None:
    """Whoever records the attempt then must not forget that one of them has the e-mail."""
    async with (
        ScriptedRelay({f'RCPT <{BOB}>': '451 later'}) as primary,
        ScriptedRelay({'RCPT': STALL}) as backup,
    ):
        progress = Progress()
        task = asyncio.create_task(
            send(primary.relay(), backup.relay(), mail=rendered(ANNA, BOB), progress=progress)
        )
        await backup.until(lambda: 'RCPT' in backup.verbs)
        task.cancel()
        await asyncio.wait([task])
        assert progress.recipients is not None
        assert progress.recipients[ANNA][0] is Outcome.ACCEPTED
        assert progress.recipients[BOB][0] is Outcome.DEFERRED


@pytest.mark.parametrize(
    ('settled', 'outcome'),
    [({}, Outcome.REJECTED), ({CARL: (Outcome.ACCEPTED, '250 ok')}, Outcome.ACCEPTED)],
)
async def test_message_over_the_size_of_all_relays_is_rejected_for_each_recipient_left(
    settled: Settled, outcome: Outcome
) -> None:
    offers = {'EHLO': '250-relay.test\r\n250 SIZE 10'}
    async with ScriptedRelay(offers) as primary, ScriptedRelay(offers, 'backup') as backup:
        mail = rendered(ANNA, BOB, *settled)
        delivery = await send(primary.relay(), backup.relay(), mail=mail, settled=settled)
        assert delivery.outcome is outcome
        assert delivery.recipients is not None
        assert {who: found for who, (found, _) in delivery.recipients.items()} == {
            ANNA: Outcome.REJECTED,
            BOB: Outcome.REJECTED,
            **{who: found for who, (found, _) in settled.items()},
        }
        assert all(name in (delivery.error or '') for name in ('primary: ', 'backup: '))
