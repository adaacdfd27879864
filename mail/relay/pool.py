"""Kept SMTP connections to one relay, and who waits for them."""

import asyncio
import contextlib
import math
import time

from mail.relay.dial import dial
from mail.relay.errors import RelayBehindError, RelayError, RelayRefusedError
from mail.relay.health import Health
from mail.relay.learned_limits import ConnectionLimit, MessageLimit
from mail.relay.learned_rate import LearnedRate
from mail.relay.options import RelayOptions
from mail.relay.recipients import RecipientLimit
from mail.relay.send_queue import SendQueue
from mail.relay.session import Session
from mail.relay.transaction import Answers, Transaction

SLOW_TRANSACTION_S = 0.5  # so many connections keep up with a limited rate


class Relay:
    """A relay: its connections, its health, and what it has taught of its limits.

    Attributes:
        recipients: How many recipients it takes in one transaction.
        rate: How many e-mails it takes in a second.
    """

    def __init__(self, options: RelayOptions) -> None:
        self.options = options
        self.health = Health()
        self.rate = LearnedRate(options.limits.max_per_s)
        self.recipients = RecipientLimit()
        self._connections = ConnectionLimit(options.max_connections)
        self._messages = MessageLimit(options.limits.max_messages)
        self._login = options.login()  # one for all: a wrong password is tried once, not by each
        self._sessions: set[Session] = set()  # all that are open
        self._idle: list[Session] = []  # those of them that are free
        self._connecting = 0
        self._opening: set[asyncio.Task[None]] = set()  # connections for those who wait
        self._waiting = SendQueue(self.rate, self._serve_waiting)

    @property
    def name(self) -> str:
        """The relay's name in logs, attempts and health."""
        return self.options.name

    @property
    def last_error(self) -> str | None:
        """Why the relay failed last; None when it has served since then."""
        return self.health.last_error

    def unavailable_for_s(self) -> float:
        """Return 0 when the relay can be used now, else how long not to try it."""
        return self.health.unavailable_for_s(time.monotonic())

    def cool_down(self, reason: str) -> None:
        """Leave the relay alone for a while, longer after each failure in a row."""
        now = time.monotonic()
        if self.health.is_cooling(now):
            return  # one of many that the same outage failed
        self.health.failed(reason, now)
        self._connections.forget()  # an outage is no limit of the relay
        # Who waited for a connection once paid an attempt for the outage.
        self._waiting.fail_all(RelayRefusedError(f'{self.name} was left alone: {reason}'))
        self.close_idle(older_than_s=0)

    def recovered(self, *, accepted: bool = False) -> None:
        """Note that the relay answered as it should, and whether it took an e-mail."""
        now = time.monotonic()
        self.health.recovered(now)
        if accepted:
            self.rate.accepted(now)

    @property
    def is_behind(self) -> bool:
        """Whether an e-mail would wait only because the relay wants no more at once."""
        return self._waiting.is_behind

    def slot_in_s(self) -> float:
        """Return about how long an e-mail would wait because of that."""
        return self.rate.slot_in_s(len(self._waiting))

    def send_away_waiting(self) -> None:
        """Let nobody wait for a slot any longer."""
        # Mail goes to the relay whose slot comes first, which may be another by now.
        self._waiting.fail_all(RelayBehindError(f'{self.name} is behind: {self.rate.reason}'))

    @property
    def wanted_connections(self) -> int:
        """How many connections the relay's rate keeps busy."""
        most, per_s = self._connections.configured, self.rate.per_s
        return max(1, min(most, math.ceil(per_s * SLOW_TRANSACTION_S))) if per_s else most

    async def transact(self, transaction: Transaction, *, fresh: bool = False) -> Answers:
        """Carry a transaction over a kept connection, a new one, or the next that is free.

        Args:
            fresh: Rather not over a kept connection: one was stale.

        Raises:
            RelayError: no connection; RelayRefusedError when the relay sends us away.
            RelayBehindError: see send_away_waiting.
            RelayGoneError: the connection failed before the final dot was sent.
            UnfitError: the relay takes no such message.
            Whatever transaction.progress.before_data raises.
        """
        probe = self.health.failures > 0  # an outage costs one attempt for each cool-down
        self.health.probes += probe
        try:
            session, urgent = None, transaction.progress.urgent  # a queue may lose it again
            if not self._waiting.is_behind_for(transaction.progress):
                session = None if fresh else self._take_idle()
                # Above the limit it took 3 to 8 s to open one, at a relay that is busy with others.
                if session is None and self._has_room():
                    session = await self._connect() or self._take_idle()  # one may be free now
            if session is None:
                self._waiting.append(transaction)
            else:
                # Those who wait shall not pay for an urgent one that does not.
                if not urgent or self.rate.allows():
                    self.rate.spend()
                session.begin(transaction)
                self._on_free(session)  # when the transaction was over at once
            return await transaction.done
        except asyncio.CancelledError:
            done = transaction.done
            if done.done() and not done.cancelled() and done.exception() is None:
                # Cancelled in the moment the relay answered: what it said must be recorded.
                transaction.progress.cut_off = True
                return done.result()
            self._withdraw(transaction)
            raise
        finally:
            self.health.probes -= probe

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
            if session.is_free:  # the relay may have closed it while it was idle
                return session
        return None

    def _has_room(self) -> bool:
        count = len(self._sessions) + self._connecting + len(self._opening)
        return count < self.wanted_connections and self._connections.allows(count, time.monotonic())

    def _is_full(self) -> bool:
        """Tell whether the relay refused a connection only because we have others; keep to those.

        The others have to be known to work, or mail would wait for connections that hang; or to be
        on the way: the last of those will tell.
        """
        now = time.monotonic()
        opening = self._connecting + len(self._opening) - 1
        serves = self._idle or self.health.serves(now)  # mail waited for those that hung
        if not (opening or (self._sessions and serves)):
            return False
        self._connections.refused(opening + len(self._sessions), now)  # 745 e-mails a second, not 3
        return True

    def _withdraw(self, transaction: Transaction) -> None:
        transaction.done.cancel()
        for session in list(self._sessions):
            session.cancel(transaction)
        if self._waiting.drop_abandoned():
            for opening in self._opening:
                opening.cancel()
        self._open_for_waiting()  # somebody may wait for the connection that was given up

    def _next_waiting(self, session: Session) -> Transaction | None:
        """Return who is to be carried next, if this session may carry more."""
        used_up = session.usage.messages >= self._messages.most
        if used_up or self.health.is_cooling(time.monotonic()):
            return None
        return self._waiting.next()

    def _serve_waiting(self) -> None:
        for session in self._idle[:]:
            if self._waiting:
                self._idle.remove(session)
                self._on_free(session)
        self._open_for_waiting()

    # Connections.

    def _on_free(self, session: Session) -> None:
        """Give a free connection its next transaction, or keep it; replace one that is gone."""
        while session.is_free:
            if (transaction := self._next_waiting(session)) is not None:
                session.begin(transaction)
            elif session.usage.messages < self._messages.most:
                session.usage.idle_since = time.monotonic()
                self._idle.append(session)
                return
            else:
                session.close()
        if not session.is_open:
            self._forget(session)

    def _forget(self, session: Session) -> None:
        self._sessions.discard(session)
        if session.usage.used_up_after is not None:
            self._messages.ended(session.usage.used_up_after, time.monotonic())
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
        with contextlib.suppress(RelayError):  # those who wait have heard of it
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
        """Open a connection. When that fails, the relay cools down, and nobody waits any longer.

        Returns:
            None when the relay takes no more of them now.
        """
        try:
            session = await dial(self.options, self._login, self._on_free, self._next_waiting)
            if not session.is_open:  # nobody shall wait for a relay that lets nobody in
                raise RelayError(f'{self.name} closed the connection after the greeting')  # noqa: TRY301 - as dial would
        except RelayError as error:
            if _is_cancelled():
                raise asyncio.CancelledError from None
            if self._is_full():  # e-mails go over the others, and none pays an attempt
                return None
            self.cool_down(str(error))
            raise
        finally:
            self._connections.tried()
        self.health.served(time.monotonic())  # what it refuses beside this one is its limit
        self.recipients.announced = session.extensions.most_recipients  # RFC 9422
        self._sessions.add(session)
        if _is_cancelled():
            session.close()
            self._forget(session)
            raise asyncio.CancelledError
        return session

    def close_idle(self, older_than_s: float | None = None) -> None:
        """Close connections unused for longer than this, the relay's idle timeout by default."""
        # Well before the 5 minutes after which a relay may do so itself (RFC 5321, 4.5.3.2.7).
        limit_s = self.options.timeouts.idle_s if older_than_s is None else older_than_s
        now = time.monotonic()
        for session in [s for s in self._idle if now - s.usage.idle_since >= limit_s]:
            session.close()
            self._forget(session)

    def upkeep(self) -> None:
        """Close idle connections, forget old limits, and free who waits behind a stalled e-mail."""
        self.close_idle()
        self._messages.upkeep(time.monotonic())
        for session in list(self._sessions):
            # `make chaos`: a relay that stalls after the dot holds others up for 2.3 s at worst.
            if (transaction := session.give_back_stalled()) is not None:
                self._waiting.put_back(transaction)
        self.rate.upkeep()
        self._serve_waiting()


def _is_cancelled() -> bool:
    """Return whether this task was cancelled and does not know.

    Before Python 3.12 asyncio.wait_for, which aiosmtplib uses, swallows a cancellation that comes
    together with its result (python/cpython issue 86296).
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
