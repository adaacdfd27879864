"""Kept SMTP connections to the relays, and which relay can be used now."""

import asyncio
import contextlib
import math
import time

from mail.priority import HIGH, Line
from mail.relay.connect import RelayOptions, dial
from mail.relay.learned_rate import Pace
from mail.relay.recipients import RecipientLimit
from mail.relay.session import Session
from mail.relay.transaction import (
    Answers,
    RelayBehindError,
    RelayError,
    RelayRefusedError,
    Transaction,
)

# Doubled with every failure in a row. Short, because a relay that restarts is back in seconds.
COOL_DOWN_BASE_S = 2.0
COOL_DOWN_MAX_S = 120.0
PROBE_WAIT_S = 1.0  # how long to leave a relay alone that somebody is trying right now
# A relay that refuses a connection while it serves others of ours has a limit; other workers share
# it, so it is tried again now and then whether there is room for one more.
ONE_MORE_EVERY_S = 10.0
SERVES_S = 10.0  # it serves when it let somebody in, or somebody's e-mail through, so lately
MAX_MESSAGES_PER_CONNECTION = (
    1000  # some relays count, and close the connection at an inconvenient moment
)
FEWER_MESSAGES_FOR_S = 600.0  # what two connections taught may have been a restart
SLOW_TRANSACTION_S = 0.5  # so many connections keep up with a limited pace


class Relay:
    """A relay's connections and its health.

    After a failure the relay cools down. When that is over, one e-mail at a time tries it until one
    gets through, so that an outage costs one attempt per cool-down instead of one per waiting
    e-mail.
    """

    def __init__(self, options: RelayOptions) -> None:
        self.options = options
        self._login = options.login()
        self._sessions: set[Session] = set()  # all that are open
        self._idle: list[Session] = []  # those of them that are free
        self._connecting = 0
        self._waiting: Line[Transaction] = Line()  # for a free connection
        self._opening: set[asyncio.Task[None]] = set()  # connections for those who wait
        self._most = options.max_connections  # the relay's own limit where that is lower
        self._one_more_at = 0.0
        self._served_at = 0.0
        self._most_messages = MAX_MESSAGES_PER_CONNECTION
        self._most_messages_until = 0.0
        self._worn_out_after: int | None = (
            None  # the last connection that the relay ended between two messages
        )
        self._failures = 0
        self._cool_until = 0.0
        self._probes = 0  # e-mails that are trying whether the relay is well again
        self.pace = Pace()
        self.recipients = RecipientLimit()
        self._turn: asyncio.TimerHandle | None = None  # when the pace lets the next begin
        self._turn_at = 0.0
        self.last_error: str | None = None

    @property
    def name(self) -> str:
        """The relay's name in logs, attempts and health: primary or backup."""
        return self.options.name

    def unavailable_for_s(self) -> float:
        """Return 0 when the relay can be used now, else how long not to try it."""
        left = self._cool_until - time.monotonic()
        if left > 0:
            return left
        return PROBE_WAIT_S if self._probes else 0.0

    def cool_down(self, reason: str) -> None:
        """Leave the relay alone for a while, longer after each failure in a row."""
        if self._cool_until > time.monotonic():
            return  # one of many that the same outage failed
        self.last_error = reason
        self._most = (
            self.options.max_connections
        )  # the failures of an outage are not the relay's limit
        self._failures += 1
        # 2**64 is far beyond the cap and still a float.
        pause_s = min(COOL_DOWN_MAX_S, COOL_DOWN_BASE_S * 2.0 ** min(self._failures - 1, 64))
        self._cool_until = time.monotonic() + pause_s
        waiting = self._waiting.take_all()
        self.close_idle(older_than_s=0)
        for transaction in waiting:
            transaction.fail(RelayRefusedError(f'{self.name} was left alone: {reason}'))

    def recovered(self, *, accepted: bool = False) -> None:
        """Note that the relay answered as it should, and whether it took an e-mail."""
        self._served_at = time.monotonic()
        self._failures = 0
        self.last_error = None
        if accepted:
            self.pace.accepted(self._served_at)

    @property
    def is_behind(self) -> bool:
        """Whether an e-mail would wait only because the relay wants no more at once."""
        return bool(self.pace.per_s) and (bool(self._waiting) or not self.pace.allows())

    def _is_behind_for(self, priority: int) -> bool:
        if not self.pace.per_s:
            return False
        return self._waiting.ahead_of(priority) > 0 or not self.pace.allows(high=priority == HIGH)

    def turn_in_s(self) -> float:
        """Return about how long an e-mail would wait because of that."""
        return self.pace.turn_in_s(len(self._waiting))

    def send_away_waiting(self) -> None:
        """Let nobody wait for his turn any longer."""
        for transaction in self._waiting.take_all():
            transaction.fail(RelayBehindError(f'{self.name} is behind: {self.pace.reason}'))

    @property
    def wanted_connections(self) -> int:
        """How many connections the relay's pace keeps busy."""
        most, per_s = self.options.max_connections, self.pace.per_s
        return max(1, min(most, math.ceil(per_s * SLOW_TRANSACTION_S))) if per_s else most

    async def transact(self, transaction: Transaction, *, fresh: bool = False) -> Answers:
        """Carry a transaction over a kept connection, over a new one, or over the next that is free.

        Args:
            fresh: Rather not over a kept connection: one was stale.

        Raises:
            RelayError: no connection; RelayRefusedError when the relay sends us away.
            RelayBehindError: see send_away_waiting.
            RelayGoneError: the connection failed before the final dot was sent.
            TooLargeError: the relay takes no message of this size.
            Whatever transaction.progress.before_data raises.
        """
        probe = self._failures > 0
        self._probes += probe
        try:
            session, urgent, priority = (
                None,
                transaction.progress.urgent,
                transaction.progress.priority,
            )
            if urgent or not self._is_behind_for(priority):
                session = None if fresh else self._take_idle()
                if session is None and (urgent or self._has_room()):
                    session = await self._connect() or self._take_idle()
            if session is None:
                self._waiting.append(transaction, priority)
                self._await_turn()
            else:
                if (
                    not urgent or self.pace.allows()
                ):  # the others shall not pay for those who do not wait
                    self.pace.spend()
                session.begin(transaction)
                self._on_free(session)  # when the transaction was over at once
            return await transaction.done
        except asyncio.CancelledError:
            done = transaction.done
            if done.done() and not done.cancelled() and done.exception() is None:
                transaction.progress.cut_off = True
                return (
                    done.result()
                )  # cancelled in the moment the relay answered: what it said must be recorded
            self._withdraw(transaction)
            raise
        finally:
            self._probes -= probe

    async def greet(self) -> None:
        """Connect and log in, on a connection that is kept for the next e-mail.

        Raises:
            RelayError: it is not to be had.
        """
        session = await self._connect()
        if session is not None:
            self._on_free(session)
        self.recovered()

    def _take_idle(self) -> Session | None:
        while self._idle:
            session = self._idle.pop()
            if session.is_free:
                return session
        return None

    def _has_room(self) -> bool:
        count = len(self._sessions) + self._connecting + len(self._opening)
        if count >= self.wanted_connections:
            return False
        if count < self._most:
            return True
        if time.monotonic() < self._one_more_at:
            return False
        self._most, self._one_more_at = (
            count + 1,
            math.inf,
        )  # until it is known whether there was room for it
        return True

    def _is_full(self) -> bool:
        """Return whether the relay refused a connection only because we have others; keep to so many then.

        The others have to be known to work, or mail would wait for connections that hang; or to be
        on the way: the last of those will tell.
        """
        now = time.monotonic()
        opening = self._connecting + len(self._opening) - 1
        serves = self._idle or now < self._served_at + SERVES_S
        if not (opening or (self._sessions and serves)):
            return False
        self._most, self._one_more_at = opening + len(self._sessions), now + ONE_MORE_EVERY_S
        return True

    def _has_too_many(self) -> bool:
        return len(self._sessions) > self.options.max_connections  # after urgent ones

    def _withdraw(self, transaction: Transaction) -> None:
        transaction.done.cancel()
        for session in list(self._sessions):
            session.cancel(transaction)
        if all(waiting.done.done() for waiting in self._waiting):
            self._waiting.take_all()
            for opening in self._opening:
                opening.cancel()
        self._open_for_waiting()

    def _next_waiting(self, session: Session) -> Transaction | None:
        """Return who is to be carried next, if this session may carry more."""
        if session.messages < self._most_messages and not self._cool_until > time.monotonic():
            while self._waiting and self._lets_next_begin():
                transaction = self._waiting.popleft()
                if not transaction.done.done():
                    self.pace.spend()
                    return transaction
            self._await_turn()
        return None

    def _await_turn(self) -> None:
        """See to it that somebody looks after those who wait when the pace lets the next of them begin."""
        # Where it lets somebody begin now, who waits does so for a connection.
        if not self._waiting or self._lets_next_begin():
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + self.pace.wait_s(high=self._waiting.next_priority == HIGH)
        if self._turn is not None:
            if self._turn_at <= at:
                return
            self._turn.cancel()  # who came last goes first
        # Kept besides: uvloop's handle of what is to run at once knows no time.
        self._turn, self._turn_at = loop.call_at(at, self._take_turn), at

    def _lets_next_begin(self) -> bool:
        return not self.pace.per_s or self.pace.allows(high=self._waiting.next_priority == HIGH)

    def _take_turn(self) -> None:
        self._turn = None
        self._serve_waiting()
        self._await_turn()

    def _serve_waiting(self) -> None:
        for session in self._idle[:]:
            if self._waiting:
                self._idle.remove(session)
                self._on_free(session)
        self._open_for_waiting()

    def _on_free(self, session: Session) -> None:
        """Give a free connection its next transaction, or keep it; replace one that is gone if anybody waits."""
        while session.is_free and (transaction := self._next_waiting(session)) is not None:
            session.begin(transaction)
        if session.is_free and session.messages < self._most_messages and not self._has_too_many():
            session.idle_since = time.monotonic()
            self._idle.append(session)
            return
        if session.is_free:
            session.close()
        if not session.is_open:
            self._forget(session)

    def _forget(self, session: Session) -> None:
        self._sessions.discard(session)
        if session.worn_out_after is not None:
            if session.worn_out_after == self._worn_out_after:
                self._most_messages = session.worn_out_after
                self._most_messages_until = time.monotonic() + FEWER_MESSAGES_FOR_S
            self._worn_out_after = session.worn_out_after
        if session in self._idle:
            self._idle.remove(session)
        self._open_for_waiting()

    def _open_for_waiting(self) -> None:
        while len(self._opening) + len(self._idle) < len(self._waiting) and self._has_room():
            opening = asyncio.get_running_loop().create_task(self._open_one())
            self._opening.add(opening)
            opening.add_done_callback(self._opened)

    def _opened(self, opening: asyncio.Task[None]) -> None:
        self._opening.discard(opening)
        self._open_for_waiting()

    async def _open_one(self) -> None:
        with contextlib.suppress(RelayError):  # those who wait have been told
            session = await self._open()
            if session is not None:
                self._on_free(session)

    async def _connect(self) -> Session | None:
        self._connecting += 1
        try:
            return await self._open()
        finally:
            self._connecting -= 1

    async def _open(self) -> Session | None:
        """Open a connection. When that fails the relay cools down, and nobody waits for it any longer.

        Returns:
            None when the relay takes no more of them now.
        """
        try:
            session = await dial(self.options, self._login, self._on_free, self._next_waiting)
            if not session.is_open:
                raise RelayError(f'{self.name} closed the connection after the greeting')  # noqa: TRY301 - as dial would
        except RelayError as error:
            if _is_cancelled():
                raise asyncio.CancelledError from None
            if self._is_full():
                return None
            self.cool_down(str(error))
            raise
        finally:
            if self._one_more_at == math.inf:  # there was room: the next may be tried at once
                self._one_more_at = 0.0
        self._served_at = time.monotonic()
        self.recipients.told = session.most_recipients
        self._sessions.add(session)
        if _is_cancelled():
            session.close()
            self._forget(session)
            raise asyncio.CancelledError
        return session

    def close_idle(self, older_than_s: float | None = None) -> None:
        """Close connections unused for longer than this, the relay's idle timeout by default."""
        limit_s = self.options.idle_timeout_s if older_than_s is None else older_than_s
        now = time.monotonic()
        for session in [session for session in self._idle if now - session.idle_since >= limit_s]:
            session.close()
            self._forget(session)

    def tend(self) -> None:
        """Do what has to be done now and then: close idle connections, and free who waits behind a stalled e-mail."""
        self.close_idle()
        if time.monotonic() > self._most_messages_until:
            self._most_messages = MAX_MESSAGES_PER_CONNECTION
        for session in list(self._sessions):
            if (transaction := session.give_back_stalled()) is not None:
                self._waiting.appendleft(transaction, transaction.progress.priority)
        self.pace.tend()
        self._serve_waiting()


def _is_cancelled() -> bool:
    """Return whether this task was cancelled and does not know.

    Before Python 3.12 asyncio.wait_for, which aiosmtplib uses, swallows a cancellation that comes
    together with its result (python/cpython issue 86296).
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
