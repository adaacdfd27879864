"""One open SMTP connection: what is written when, and where each reply goes."""

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from mail.outcome import Outcome, Phase
from mail.progress import Progress
from mail.relay.errors import RelayGoneError, RelayRefusedError
from mail.relay.session import AT_ONCE_BYTES, BODY_CHUNK_BYTES, LAST_BYTES, Session
from tests.unit.fake_transport import (
    ENVELOPE_REPLIES,
    MESSAGE,
    Pool,
    Transport,
    envelope_of,
    open_session,
    transaction,
)


@pytest.fixture
def transport() -> Transport:
    return Transport()


@pytest.fixture
def pool() -> Pool:
    return Pool()


Open = Callable[..., Session]


@pytest.fixture(name='open_session')
def open_session_fixture(transport: Transport, pool: Pool) -> Open:
    return partial(open_session, transport, pool)


async def test_envelope_goes_in_one_write_and_the_body_waits_for_its_reply(
    open_session: Open, transport: Transport, pool: Pool
) -> None:
    session, anna = open_session(), transaction()
    session.begin(anna)
    assert transport.written == [envelope_of('anna@example.com')]
    assert anna.fresh
    session.data_received(ENVELOPE_REPLIES)
    assert transport.written[1:] == [MESSAGE + b'.\r\n']
    assert anna.progress.phase is Phase.BODY_SENT
    session.data_received(b'250 queued\r\n')
    assert [outcome for outcome, _ in (await anna.done).values()] == [Outcome.ACCEPTED]
    assert (session.is_free, pool.freed) == (True, 1)


async def test_commands_go_one_by_one_where_the_relay_does_not_pipeline(
    open_session: Open, transport: Transport, pool: Pool
) -> None:
    session, anna = open_session(pipelining=False), transaction()
    pool.waiting.append(transaction('bob@example.com'))
    session.begin(anna)
    for _ in range(2):
        session.data_received(b'250 ok\r\n')
    session.data_received(b'354 go\r\n')
    assert transport.written == [
        *envelope_of('anna@example.com').splitlines(keepends=True),
        MESSAGE + b'.\r\n',
    ]
    assert len(pool.waiting) == 1


async def test_next_envelope_travels_with_the_body(
    open_session: Open, transport: Transport, pool: Pool
) -> None:
    session, anna, bob = open_session(), transaction(), transaction('bob@example.com')
    session.begin(anna)
    pool.waiting.append(bob)
    session.data_received(ENVELOPE_REPLIES)
    assert transport.written[1:] == [MESSAGE + b'.\r\n' + envelope_of('bob@example.com')]
    assert (anna.progress.phase, bob.progress.phase) == (Phase.BODY_SENT, Phase.MAIL)
    assert not bob.fresh
    session.data_received(b'250 queued\r\n' + ENVELOPE_REPLIES)
    assert anna.done.done()
    assert transport.written[2:] == [MESSAGE + b'.\r\n']
    session.data_received(b'550 5.7.1 no\r\n')
    assert [outcome for outcome, _ in (await bob.done).values()] == [Outcome.REJECTED]


async def test_lost_connection_leaves_only_the_sent_body_uncertain(
    open_session: Open, pool: Pool
) -> None:
    session, anna, bob = open_session(), transaction(), transaction('bob@example.com')
    session.begin(anna)
    pool.waiting.append(bob)
    session.data_received(ENVELOPE_REPLIES)
    session.connection_lost(ConnectionResetError('reset by peer'))
    assert [outcome for outcome, _ in (await anna.done).values()] == [Outcome.UNCERTAIN]
    with pytest.raises(RelayGoneError, match='MAIL: connection lost: reset by peer'):
        await bob.done
    assert not bob.progress.reached_data_end


async def test_refused_body_says_nothing_about_the_next_e_mail(
    open_session: Open, pool: Pool
) -> None:
    session, anna, bob = open_session(), transaction(), transaction('bob@example.com')
    session.begin(anna)
    pool.waiting.append(bob)
    session.data_received(ENVELOPE_REPLIES)
    session.data_received(b'554 spam\r\n' + ENVELOPE_REPLIES)
    session.data_received(b'250 queued\r\n')
    assert [outcome for outcome, _ in (await anna.done).values()] == [Outcome.REJECTED]
    assert [outcome for outcome, _ in (await bob.done).values()] == [Outcome.ACCEPTED]


async def test_withdrawn_next_e_mail_does_not_end_the_one_before_it_and_its_body_is_never_sent(
    open_session: Open, transport: Transport, pool: Pool
) -> None:
    session, anna, bob = open_session(), transaction(), transaction('bob@example.com')
    session.begin(anna)
    pool.waiting.append(bob)
    session.data_received(ENVELOPE_REPLIES)
    session.cancel(bob)
    assert transport.ended is None
    session.data_received(b'250 queued\r\n' + ENVELOPE_REPLIES)
    assert [outcome for outcome, _ in (await anna.done).values()] == [Outcome.ACCEPTED]
    assert transport.ended == 'aborted'
    assert len(transport.written) == 2


async def test_e_mail_behind_a_stalled_one_is_given_back(
    open_session: Open, transport: Transport, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, anna, bob = open_session(), transaction(), transaction('bob@example.com')
    session.begin(anna)
    pool.waiting.append(bob)
    session.data_received(ENVELOPE_REPLIES)
    assert session.give_back_stalled() is None
    monkeypatch.setattr('mail.relay.session.STALL_S', 0.0)
    assert session.give_back_stalled() is bob
    assert session.give_back_stalled() is None
    session.data_received(b'250 queued\r\n')
    assert anna.done.done()
    assert (bob.done.done(), transport.ended) == (False, 'aborted')


async def test_lease_lost_before_the_body_ends_the_connection_without_the_message(
    open_session: Open, transport: Transport
) -> None:
    def lost() -> None:
        raise LookupError('the lease ran out')

    progress = Progress()
    session, anna = open_session(), transaction(progress=progress)
    session.begin(anna)
    progress.before_data = lost
    session.data_received(ENVELOPE_REPLIES)
    with pytest.raises(LookupError):
        await anna.done
    assert (len(transport.written), transport.ended) == (1, 'aborted')


async def test_lost_lease_of_the_next_e_mail_keeps_its_envelope_here(
    open_session: Open, transport: Transport, pool: Pool
) -> None:
    def lost() -> None:
        raise LookupError('the lease ran out')

    session, anna, bob = (
        open_session(),
        transaction(),
        transaction('bob@example.com', progress=Progress()),
    )
    bob.progress.before_data = lost
    session.begin(anna)
    pool.waiting.append(bob)
    session.data_received(ENVELOPE_REPLIES)
    session.data_received(b'250 queued\r\n')
    assert anna.done.result()
    with pytest.raises(LookupError):
        await bob.done
    assert transport.written[1:] == [MESSAGE + b'.\r\n']
    assert session.is_free


async def test_refused_envelope_is_taken_back_and_the_next_waits_for_that(
    open_session: Open, transport: Transport
) -> None:
    session, anna, bob = open_session(), transaction(), transaction('bob@example.com')
    session.begin(anna)
    session.data_received(b'250 ok\r\n550 5.1.1 unknown\r\n503 5.5.1 no recipient\r\n')
    assert [outcome for outcome, _ in (await anna.done).values()] == [Outcome.REJECTED]
    assert transport.written[1:] == [b'RSET\r\n']
    session.begin(bob)
    assert len(transport.written) == 2
    session.data_received(b'250 ok\r\n')
    assert transport.written[2:] == [envelope_of('bob@example.com')]


async def test_421_at_any_reply_is_told_as_such_and_ends_the_connection(
    open_session: Open, transport: Transport
) -> None:
    session, anna = open_session(), transaction()
    session.begin(anna)
    session.data_received(b'250 ok\r\n421 4.3.2 shutting down\r\n')
    with pytest.raises(RelayRefusedError, match='shutting down'):
        await anna.done
    assert transport.ended == 'aborted'


@pytest.mark.parametrize('data', [b'what\r\n', b'25 ok\r\n'])
async def test_what_is_no_reply_ends_the_connection(
    open_session: Open, transport: Transport, data: bytes
) -> None:
    session, anna = open_session(), transaction()
    session.begin(anna)
    session.data_received(data)
    with pytest.raises(RelayGoneError, match='not an SMTP reply'):
        await anna.done
    assert transport.ended == 'aborted'
    assert not session.is_open


async def test_unasked_reply_ends_the_connection(
    open_session: Open, transport: Transport, pool: Pool
) -> None:
    session = open_session()
    session.data_received(b'421 4.4.2 idle\r\n')
    assert (transport.ended, session.is_free, pool.freed) == ('aborted', False, 1)


async def test_reply_that_does_not_come_in_time_ends_the_connection(
    open_session: Open, transport: Transport
) -> None:
    session, anna = open_session(command_s=0.01), transaction()
    session.begin(anna)
    with pytest.raises(RelayGoneError, match=r'no reply within 0\.01 s'):
        await anna.done
    assert transport.ended == 'aborted'


async def test_verdict_has_its_own_longer_time(open_session: Open, transport: Transport) -> None:
    session, anna, bob = (
        open_session(command_s=0.01, reply_s=60),
        transaction(),
        transaction('bob@example.com'),
    )
    session.begin(anna)
    session.data_received(ENVELOPE_REPLIES)
    # What the timer of the first command does, if it comes too late to be stopped.
    session._deadline.look()
    assert transport.ended is None
    session.data_received(b'250 queued\r\n')
    session.begin(bob)
    with pytest.raises(RelayGoneError, match=r'no reply within 0\.01 s'):
        await bob.done


async def test_large_body_goes_in_pieces_that_wait_for_room(
    open_session: Open, transport: Transport
) -> None:
    session, anna = open_session(), transaction(message=b'x' * 70 * 3000 + b'\r\n')
    assert transport.limits == {'high': 1, 'low': 0}  # high=0 stops a TLS transport for good
    session.begin(anna)
    session.pause_writing()
    session.data_received(ENVELOPE_REPLIES)
    await asyncio.sleep(0)
    assert [len(data) for data in transport.written[1:]] == [BODY_CHUNK_BYTES]
    assert anna.progress.phase is Phase.BODY
    session.resume_writing()
    while anna.progress.phase is not Phase.BODY_SENT:  # noqa: ASYNC110 - nobody announces it
        await asyncio.sleep(0)
    assert b''.join(transport.written[1:]) == anna.rendered.message + b'.\r\n'
    session.data_received(b'250 queued\r\n')
    assert anna.done.done()


async def test_relay_that_answers_before_it_has_the_body_gets_none(
    open_session: Open, transport: Transport
) -> None:
    session, anna = open_session(), transaction()
    session.begin(anna)
    session.data_received(ENVELOPE_REPLIES + b'250 queued\r\n')
    with pytest.raises(RelayGoneError, match='before it had the body'):
        await anna.done
    assert (len(transport.written), transport.ended) == (1, 'aborted')


@pytest.mark.parametrize(
    ('reply', 'outcome'),
    [(b'552 too much\r\n', Outcome.REJECTED), (b'250 queued\r\n', Outcome.DEFERRED)],
)
async def test_verdict_in_the_middle_of_a_body_ends_the_connection(
    open_session: Open, transport: Transport, pool: Pool, reply: bytes, outcome: Outcome
) -> None:
    session, anna = open_session(), transaction(message=b'x' * 70 * 3000 + b'\r\n')
    session.begin(anna)
    session.pause_writing()
    session.data_received(ENVELOPE_REPLIES)
    await asyncio.sleep(0)
    session.data_received(reply)
    assert [found for found, _ in (await anna.done).values()] == [outcome]
    assert (transport.ended, session.is_free) == ('aborted', False)
    session.resume_writing()
    await asyncio.sleep(0)
    assert [len(data) for data in transport.written[1:]] == [BODY_CHUNK_BYTES]


async def test_reply_before_nonsense_still_counts(open_session: Open) -> None:
    session, anna = open_session(), transaction()
    session.begin(anna)
    session.data_received(ENVELOPE_REPLIES)
    session.data_received(b'250 queued\r\nxyz\r\n')
    assert [outcome for outcome, _ in (await anna.done).values()] == [Outcome.ACCEPTED]
    assert not session.is_open


async def test_close_says_quit(open_session: Open, transport: Transport) -> None:
    session = open_session()
    session.close()
    assert (transport.written, transport.ended) == ([b'QUIT\r\n'], 'closed')
    session.close()
    assert transport.written == [b'QUIT\r\n']


@pytest.mark.parametrize('lost_at', [2, 3, 4, 5])
async def test_large_body_is_given_up_at_the_chunk_before_which_the_lease_ran_out(
    open_session: Open, transport: Transport, lost_at: int
) -> None:
    """MAIL, the body, each chunk's end, the last of which comes before the dot."""
    looks = 0

    def before_data() -> None:
        nonlocal looks
        looks += 1
        if looks == lost_at:
            raise LeaseLost

    body = b'x' * (3 * BODY_CHUNK_BYTES)
    session, anna = (
        open_session(),
        transaction(message=body, progress=Progress(before_data=before_data)),
    )
    session.begin(anna)
    session.data_received(ENVELOPE_REPLIES)
    with pytest.raises(LeaseLost):
        await anna.done
    written = b''.join(transport.written[1:])
    assert len(written) == (lost_at - 2) * BODY_CHUNK_BYTES - (
        LAST_BYTES - 5 if lost_at == 5 else 0
    )
    assert not written.endswith(b'.\r\n')
    assert (transport.ended, looks) == ('aborted', lost_at)


async def test_dot_of_a_large_body_goes_only_when_all_before_it_was_flushed(
    open_session: Open, transport: Transport
) -> None:
    body = b'x' * (AT_ONCE_BYTES + 1)
    session, anna = open_session(), transaction(message=body)
    session.begin(anna)
    session.pause_writing()
    session.data_received(ENVELOPE_REPLIES)
    for _ in range(5):
        await asyncio.sleep(0)
    assert b''.join(transport.written[1:]) == body[: len(body) + 5 - LAST_BYTES]
    assert anna.progress.phase is Phase.BODY
    session.resume_writing()
    for _ in range(5):
        await asyncio.sleep(0)
    assert b''.join(transport.written[1:]) == body + b'\r\n.\r\n'
    assert anna.progress.phase is Phase.BODY_SENT


class LeaseLost(Exception):  # noqa: N818 - stands for db.claimed.LeaseLost
    """Somebody else has it."""
