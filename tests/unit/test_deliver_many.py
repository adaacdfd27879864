"""One e-mail to more recipients than a relay takes at once."""

import asyncio
from typing import Any

import pytest

from mail.outcome import Delivery, Outcome, Settled
from mail.progress import Progress
from mail_outbox.envelope import Envelope
from mail_outbox.rendered import Rendered
from tests.unit.scripted_relay import DROP, MESSAGE, STALL, ScriptedRelay, Step, send

pytestmark = pytest.mark.usefixtures('pipelining')

THIRTY = tuple(f'{i}@example.com' for i in range(30))


class LimitedRelay(ScriptedRelay):
    """Takes so many recipients in a transaction and refuses the others; keeps who got what."""

    def __init__(
        self,
        limit: int,
        refusal: str,
        script: Any = None,
        *,
        errors: int = 1000,
        name: str = 'primary',
    ):
        super().__init__(script, name)
        self.limit, self.refusal, self.errors = limit, refusal, errors
        self.got: list[str] = []
        self._envelope: dict[int, list[str]] = {}
        self._refused: dict[int, int] = {}

    async def _do(self, key: str, session: Any, reader: Any, writer: Any) -> str:
        envelope = self._envelope.setdefault(id(session), [])
        if key == 'MAIL':
            envelope.clear()
        is_rcpt = key.startswith('RCPT')
        if is_rcpt and session.recipients_accepted >= self.limit:
            refused = self._refused[id(session)] = self._refused.get(id(session), 0) + 1
            said = self.refusal if refused <= self.errors else '421 4.7.0 Error: too many errors'
            writer.write(said.encode() + b'\r\n')
            await writer.drain()
            return said
        said = await super()._do(key, session, reader, writer)
        if is_rcpt and said.startswith('250'):
            envelope.append(session.lines[-1][len('RCPT TO:<') : -1])
        if key == 'DOT' and said.startswith('250'):
            self.got += envelope
        return said

    @property
    def transactions(self) -> int:
        return self.verbs.count('MAIL')


def to(*recipients: str) -> Rendered:
    return Rendered(Envelope('shop@example.com', recipients), MESSAGE)


def outcomes(delivery: Delivery) -> dict[str, Outcome]:
    return {recipient: outcome for recipient, (outcome, _) in (delivery.recipients or {}).items()}


@pytest.mark.parametrize(
    'refusal',
    [
        '552 Too many recipients',
        '452 4.5.3 Too many recipients',
        '452 no more now',
        '552 5.5.3 no',
        '550 Too many recipients',
        '451 4.5.3 Too many recipients',
    ],
)
async def test_thirty_recipients_reach_a_relay_that_takes_ten_each_once_in_one_attempt(
    refusal: str,
) -> None:
    async with LimitedRelay(10, refusal) as server:
        delivery = await send(server.relay(), mail=to(*THIRTY))
        assert (delivery.outcome, delivery.error) == (Outcome.ACCEPTED, None)
        assert outcomes(delivery) == dict.fromkeys(THIRTY, Outcome.ACCEPTED)
        assert server.got == list(THIRTY)
        assert len(server.sessions) == 1


@pytest.mark.parametrize('refusal', ['552 Too many recipients', '452 no more now'])
async def test_learned_limit_is_kept_to_by_the_next_e_mail(refusal: str) -> None:
    async with LimitedRelay(10, refusal) as server:
        relay = server.relay()
        await send(relay, mail=to(*THIRTY))
        asked = len(server.recipients)
        await send(relay, mail=to(*THIRTY))
        assert server.recipients[asked:] == list(THIRTY)
        assert server.got == [*THIRTY, *THIRTY]


async def test_relay_that_ends_the_connection_over_too_many_refusals_gets_fewer_at_a_time() -> None:
    async with LimitedRelay(10, '452 4.5.3 Error: too many recipients', errors=5) as server:
        delivery = await send(server.relay(), mail=to(*THIRTY))
        assert outcomes(delivery) == dict.fromkeys(THIRTY, Outcome.ACCEPTED)
        assert server.got == list(THIRTY)


@pytest.mark.parametrize(
    'refusal', ['421 4.5.3 too many recipients', '421 Too many recipients, closing']
)
async def test_relay_that_ends_the_connection_at_the_eleventh_recipient_gets_ten_at_a_time(
    refusal: str,
) -> None:
    async with LimitedRelay(10, refusal) as server:
        delivery = await send(server.relay(), mail=to(*THIRTY))
        assert outcomes(delivery) == dict.fromkeys(THIRTY, Outcome.ACCEPTED)
        assert server.got == list(THIRTY)


@pytest.mark.parametrize(
    ('verb', 'said'),
    [
        ('DOT', '554 Transaction failed: Recipient count exceeds 2.'),
        ('DATA', '452 4.5.3 Too many recipients'),
        ('DOT', '421 Too many recipients'),
    ],
)
async def test_relay_that_counts_recipients_only_at_the_end_gets_half_of_them(
    verb: str, said: str
) -> None:
    ok = '354 go' if verb == 'DATA' else '250 ok'
    async with ScriptedRelay({verb: [said, said, ok]}) as server:
        delivery = await send(server.relay(), mail=to(*THIRTY[:8]))
        assert outcomes(delivery) == dict.fromkeys(THIRTY[:8], Outcome.ACCEPTED)
        assert server.verbs.count('MAIL') == 2 + 4
        assert server.recipients == [*THIRTY[:8], *THIRTY[:4], *THIRTY[:8]]


@pytest.mark.parametrize('refusal', ['452 4.5.3 too many recipients', '552 no'])
async def test_first_recipient_that_is_refused_so_has_that_for_an_answer(refusal: str) -> None:
    async with ScriptedRelay({'RCPT': refusal}) as server:
        delivery = await send(server.relay(), mail=to(*THIRTY[:3]))
        wanted = Outcome.DEFERRED if refusal.startswith('4') else Outcome.REJECTED
        assert outcomes(delivery) == dict.fromkeys(THIRTY[:3], wanted)
        assert server.verbs.count('MAIL') == 1


@pytest.mark.parametrize('said', ['552 no', '552 5.2.2 mailbox full', '452 4.2.2 full', '452 no'])
async def test_refusal_before_an_accepted_recipient_is_about_that_one(said: str) -> None:
    async with ScriptedRelay({f'RCPT <{THIRTY[1]}>': said}) as server:
        delivery = await send(server.relay(), mail=to(*THIRTY[:3]))
        assert outcomes(delivery)[THIRTY[1]] is (
            Outcome.DEFERRED if said.startswith('4') else Outcome.REJECTED
        )
        assert (delivery.recipients or {})[THIRTY[1]][1] == said
        assert server.verbs.count('MAIL') == 1


async def test_each_recipient_keeps_its_own_outcome_over_several_transactions() -> None:
    script: dict[str, Step] = {
        f'RCPT <{THIRTY[1]}>': '550 5.1.1 unknown',
        f'RCPT <{THIRTY[25]}>': '451 4.2.1 later',
    }
    async with LimitedRelay(10, '452 4.5.3 too many', script) as server:
        relay = server.relay()
        delivery = await send(relay, mail=to(*THIRTY))
        special = {THIRTY[1]: Outcome.REJECTED, THIRTY[25]: Outcome.DEFERRED}
        assert delivery.outcome is Outcome.DEFERRED
        assert outcomes(delivery) == dict.fromkeys(THIRTY, Outcome.ACCEPTED) | special
        server.script[f'RCPT <{THIRTY[25]}>'] = '250 ok'
        again = await send(relay, mail=to(*THIRTY), settled=delivery.recipients)
        assert again.outcome is Outcome.ACCEPTED
        assert server.got == [r for r in THIRTY if r not in special] + [THIRTY[25]]


async def test_verdict_on_the_second_transaction_is_not_that_of_the_first() -> None:
    async with LimitedRelay(
        2, '552 too many recipients', {'DOT': ['250 ok', '554 spam']}
    ) as server:
        delivery = await send(server.relay(), mail=to(*THIRTY[:4]))
        assert delivery.outcome is Outcome.ACCEPTED
        assert [outcomes(delivery)[r] for r in THIRTY[:4]] == [Outcome.ACCEPTED] * 2 + [
            Outcome.REJECTED
        ] * 2
        assert '554 spam' in (delivery.error or '')


async def test_recipients_without_room_are_deferred_when_the_dot_of_the_others_is_uncertain() -> (
    None
):
    """Also where the relay says it with a code that is for good."""
    async with LimitedRelay(2, '552 too many recipients', {'DOT': [DROP, '250 ok']}) as server:
        relay = server.relay()
        first = await send(relay, mail=to(*THIRTY[:4]))
        assert first.outcome is Outcome.UNCERTAIN
        assert [outcomes(first)[r] for r in THIRTY[:4]] == [Outcome.UNCERTAIN] * 2 + [
            Outcome.DEFERRED
        ] * 2
        second = await send(relay, mail=to(*THIRTY[:4]), settled=first.recipients)
        assert outcomes(second) == dict.fromkeys(THIRTY[:4], Outcome.ACCEPTED)


async def test_backup_gets_only_whom_the_primary_had_not_taken_when_it_died() -> None:
    script = {'MAIL': ['250 ok', DROP], 'GREETING': ['220 hi', '421 gone']}
    async with (
        LimitedRelay(10, '452 too many recipients', script) as primary,
        ScriptedRelay(name='backup') as backup,
    ):
        delivery = await send(primary.relay(), backup.relay(), mail=to(*THIRTY))
        assert outcomes(delivery) == dict.fromkeys(THIRTY, Outcome.ACCEPTED)
        assert (primary.got, backup.recipients) == (list(THIRTY[:10]), list(THIRTY[10:]))


async def test_those_who_have_it_are_written_down_before_the_next_transaction() -> None:
    kept: list[tuple[int, Settled]] = []

    async def keep(recipients: Settled) -> None:
        kept.append(
            (
                len(server.bodies),
                {who: said for who, said in recipients.items() if said[0] is Outcome.ACCEPTED},
            )
        )

    async with LimitedRelay(10, '452 too many recipients') as server:
        await send(server.relay(), mail=to(*THIRTY), progress=Progress(keep=keep))
    assert [(bodies, list(who)) for bodies, who in kept] == [
        (1, list(THIRTY[:10])),
        (2, list(THIRTY[:20])),
    ]


@pytest.mark.parametrize('verb', ['MAIL', 'RCPT', 'DATA'])
async def test_shutdown_between_two_transactions_forgets_nobody_who_has_the_e_mail(
    verb: str,
) -> None:
    ok = '354 go' if verb == 'DATA' else '250 ok'
    script: dict[str, Any] = {verb: [ok] * (2 if verb == 'RCPT' else 1) + [STALL]}
    async with LimitedRelay(2, '452 too many recipients', script) as server:
        progress = Progress()
        task = asyncio.create_task(send(server.relay(), mail=to(*THIRTY[:4]), progress=progress))
        await server.until(lambda: server.transactions == 2)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert not progress.reached_data_end
        known = progress.recipients or {}
        assert [known[r][0] for r in THIRTY[:4]] == [Outcome.ACCEPTED] * 2 + [Outcome.DEFERRED] * 2


async def test_e_mail_that_is_cut_off_as_the_first_transaction_ends_is_not_taken_for_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with LimitedRelay(2, '452 too many recipients') as server:
        relay, progress = server.relay(), Progress()
        relay.recipients.learn(2)
        transact = relay.transact

        async def cut_off(*arguments: Any, **options: Any) -> Any:
            progress.cut_off = (
                True  # as Relay.transact does when a cancellation comes together with the reply
            )
            return await transact(*arguments, **options)

        monkeypatch.setattr(relay, 'transact', cut_off)
        with pytest.raises(asyncio.CancelledError):
            await send(relay, mail=to(*THIRTY[:4]), progress=progress)
        assert list(progress.recipients or ()) == list(THIRTY[:2])
        assert not progress.reached_data_end


async def test_limit_that_the_relay_tells_with_ehlo_is_kept_to_at_once() -> None:
    script = {'EHLO': '250-relay.test\r\n250 LIMITS MAILMAX=100 RCPTMAX=10'}
    async with LimitedRelay(10, '452 too many recipients', script) as server:
        relay = server.relay()
        await relay.greet()
        delivery = await send(relay, mail=to(*THIRTY))
        assert outcomes(delivery) == dict.fromkeys(THIRTY, Outcome.ACCEPTED)
        assert server.recipients == list(THIRTY)
