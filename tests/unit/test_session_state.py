"""Every transition of the table, made to happen on a connection."""

import asyncio
from collections.abc import Callable

import pytest

from mail.relay.session import AT_ONCE_BYTES, Session
from mail.relay.session_state import FREE, TRANSITIONS, Event, State
from mail.relay.transaction import Transaction
from tests.unit.fake_transport import (
    ENVELOPE_REPLIES,
    MESSAGE,
    Pool,
    Transport,
    open_session,
    transaction,
)

REFUSED_ENVELOPE = b'250 ok\r\n550 5.1.1 unknown\r\n503 5.5.1 no recipient\r\n'
LARGE = b'x' * (AT_ONCE_BYTES + 1)


class Stage:
    """A session, and who is carried by it."""

    def __init__(self) -> None:
        self.transport, self.pool = Transport(), Pool()
        self.session: Session = open_session(self.transport, self.pool)
        self.current: Transaction
        self.following = transaction('bob@example.com')

    def begin(self, message: bytes = MESSAGE) -> None:
        self.current = transaction(message=message)
        self.session.begin(self.current)

    def replies(self, data: bytes) -> None:
        self.session.data_received(data)

    def send_body(self, *, next_behind_it: bool = False) -> None:
        if next_behind_it:
            self.pool.waiting.append(self.following)
        self.begin()
        self.replies(ENVELOPE_REPLIES)

    async def begin_body(self, *, next_behind_it: bool = False) -> None:
        """Stop in the middle: the relay reads no more."""
        if next_behind_it:
            self.pool.waiting.append(self.following)
        self.begin(LARGE)
        self.session.pause_writing()
        self.replies(ENVELOPE_REPLIES)
        await asyncio.sleep(0)

    async def end_body(self) -> None:
        self.session.resume_writing()
        while self.session.state is State.BODY:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0)

    async def come_to(self, state: State) -> None:
        """Bring a new session there."""
        match state:
            case State.IDLE:
                pass
            case State.ENVELOPE:
                self.begin()
            case State.BODY:
                await self.begin_body()
            case State.VERDICT | State.VERDICT_THEN_NEXT:
                self.send_body(next_behind_it=state is State.VERDICT_THEN_NEXT)
            case State.VERDICT_THEN_END:
                self.send_body(next_behind_it=True)
                self.session.cancel(self.following)
            case State.RESET | State.RESET_THEN_BEGIN:
                self.begin()
                self.replies(REFUSED_ENVELOPE)
                if state is State.RESET_THEN_BEGIN:
                    self.begin()
            case State.CLOSED:
                self.session.close()

    async def make(self, event: Event) -> None:
        """Have it happen."""
        match event:
            case Event.BEGIN:
                self.begin()
            case Event.BODY_WANTED:
                self.replies(ENVELOPE_REPLIES)
            case Event.DOT:
                await self.end_body()
            case Event.DOT_AND_NEXT:
                self.pool.waiting.append(self.following)
                await self.end_body()
            case Event.VERDICT_CAME:
                self.replies(b'250 queued\r\n')
            case Event.NEXT_WITHDRAWN:
                self.session.cancel(self.following)
            case Event.REFUSED:
                self.replies(REFUSED_ENVELOPE)
            case Event.RESET_DONE:
                self.replies(b'250 ok\r\n')
            case Event.ENDED:
                self.session.connection_lost(ConnectionResetError('reset by peer'))


@pytest.mark.parametrize(
    ('before', 'event', 'after'),
    [
        pytest.param(before, event, after, id=f'{before.name}-{event.name}')
        for before, events in TRANSITIONS.items()
        for event, after in events.items()
    ],
)
async def test_transition(before: State, event: Event, after: State) -> None:
    stage = Stage()
    await stage.come_to(before)
    assert stage.session.state is before
    if event is Event.BODY_WANTED:
        # A small body is written at once, and its dot with it.
        stage.current.rendered = stage.current.rendered._replace(message=LARGE)
        stage.session.pause_writing()
    await stage.make(event)
    assert stage.session.state is after


@pytest.mark.parametrize('state', State)
async def test_transaction_may_begin_in_a_free_state_alone(state: State) -> None:
    stage = Stage()
    await stage.come_to(state)
    assert stage.session.is_free == (state in FREE) == (Event.BEGIN in TRANSITIONS[state])


@pytest.mark.parametrize('state', [s for s in State if s is not State.CLOSED])
@pytest.mark.parametrize(
    'end',
    [
        Session.eof_received,
        lambda session: session.data_received(b'no reply\r\n'),
        lambda session: session._fail('no reply within 1 s'),
    ],
    ids=['closed by the relay', 'nonsense', 'time-out'],
)
async def test_every_state_ends_once_and_nobody_waits_for_ever(
    state: State, end: Callable[[Session], None]
) -> None:
    stage = Stage()
    await stage.come_to(state)
    end(stage.session)
    assert stage.session.state is State.CLOSED
    assert not hasattr(stage, 'current') or stage.current.done.done()
    freed = stage.pool.freed
    stage.session.connection_lost(None)
    stage.replies(b'250 late\r\n')
    stage.session.close()
    assert (stage.session.state, stage.pool.freed) == (State.CLOSED, freed)


async def test_next_e_mail_given_back_is_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    await stage.come_to(State.VERDICT_THEN_NEXT)
    assert stage.session.give_back_stalled() is None
    monkeypatch.setattr('mail.relay.session.STALL_S', 0.0)
    assert stage.session.give_back_stalled() is stage.following
    assert stage.session.state is State.VERDICT_THEN_END


def test_all_states_have_their_row_and_all_but_the_last_can_end() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {s for s in State if Event.ENDED not in TRANSITIONS[s]} == {State.CLOSED}
    reached = {after for events in TRANSITIONS.values() for after in events.values()}
    assert reached == set(State)
