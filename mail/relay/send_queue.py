"""Transactions that wait for a free connection to a relay, and for the relay's rate."""

import asyncio
from collections.abc import Callable

from mail.priority import HIGH, FairQueue
from mail.progress import Progress
from mail.relay.learned_rate import LearnedRate
from mail.relay.transaction import Transaction


class SendQueue:
    """Who waits at one relay.

    Where the rate is not limited, who waits does so for a connection, and next() is called when one
    is free. Where it is, on_slot is called as well when the rate lets the next of them begin.
    """

    def __init__(self, rate: LearnedRate, on_slot: Callable[[], None]) -> None:
        self._rate = rate
        self._on_slot = on_slot
        self._queue: FairQueue[Transaction] = FairQueue()
        self._slot: asyncio.TimerHandle | None = None
        self._slot_at = 0.0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def is_behind(self) -> bool:
        """Whether an e-mail would wait only because the relay wants no more at once."""
        return bool(self._rate.per_s) and (bool(self._queue) or not self._rate.allows())

    def is_behind_for(self, progress: Progress) -> bool:
        """Whether this e-mail would wait for that."""
        # Mail whose worker was lost does not wait: the longer it does, the likelier another loss.
        if progress.urgent or not self._rate.per_s:
            return False
        high = progress.priority == HIGH
        return self._queue.ahead_of(progress.priority) > 0 or not self._rate.allows(high=high)

    def append(self, transaction: Transaction) -> None:
        """Put a transaction behind those of its priority."""
        self._queue.append(transaction, transaction.progress.priority)
        self._rate.queued(len(self._queue))
        self.await_slot()

    def put_back(self, transaction: Transaction) -> None:
        """Put a transaction before all others of its priority: it has waited already."""
        self._queue.appendleft(transaction, transaction.progress.priority)

    def next(self) -> Transaction | None:
        """Take out who is next, where the rate lets it begin."""
        while self._queue and self._lets_next_begin():
            transaction = self._queue.popleft()
            if not transaction.done.done():
                self._rate.spend()
                return transaction
        self.await_slot()
        return None

    def fail_all(self, error: Exception) -> None:
        """Let nobody wait any longer."""
        for transaction in self._queue.take_all():
            transaction.fail(error)

    def drop_abandoned(self) -> bool:
        """Empty the queue if nobody in it waits any more; return whether that is so."""
        if not all(transaction.done.done() for transaction in self._queue):
            return False
        self._queue.take_all()
        return True

    def _lets_next_begin(self) -> bool:
        return not self._rate.per_s or self._rate.allows(high=self._queue.next_priority == HIGH)

    def await_slot(self) -> None:
        """See to it that on_slot is called when the rate lets the next begin."""
        # Where it lets somebody begin now, who waits does so for a connection: a timer that is due
        # at once would be a busy wait.
        if not self._queue or self._lets_next_begin():
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + self._rate.wait_s(high=self._queue.next_priority == HIGH)
        if self._slot is not None:
            if self._slot_at <= at:
                return
            self._slot.cancel()  # an urgent one that came last goes first
        # Kept besides: uvloop's handle of what is to run at once knows no time, and asking it
        # for one was an error in the log.
        self._slot, self._slot_at = loop.call_at(at, self._use_slot), at

    def _use_slot(self) -> None:
        self._slot = None
        self._on_slot()
        self.await_slot()
