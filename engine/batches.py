"""Join calls that are made at the same time into one: many e-mails, one statement."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar('Item')
Answer = TypeVar('Answer')

# Callers that go on in one iteration of the loop; between two of these groups the loop does what
# else is ready, so that a large batch holds up nobody.
AT_ONCE = 32


class Batcher(Generic[Item, Answer]):
    """Collects items until the loop is idle for a moment, then calls once for all of them.

    While a call is under way the next items wait for it to end, so a slow database gets larger
    batches, not more of them. A caller that is cancelled while its call is under way does not
    cancel the call: what it was to get goes to orphaned instead.
    """

    def __init__(
        self,
        call: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        *,
        max_items: int = 200,
        parallel: int = 2,
        drop_cancelled: bool = True,
        orphaned: Callable[[Item, Answer], None] | None = None,
    ) -> None:
        """Say what to call.

        Args:
            call: Gets 1 to max_items items, returns one answer for each, in order.
            parallel: Calls under way at once; the next batch fills while they run.
            drop_cancelled: Whether an item is taken back when its caller is cancelled before its
                call has begun.
        """
        self._call = call
        self._max_items = max_items
        self._slots = parallel
        self._drop_cancelled = drop_cancelled
        self._orphaned = orphaned
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._scheduled = False
        self._running: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, item: Item, *, first: bool = False) -> Answer:
        """Return the answer for one item.

        Raises:
            Whatever the call raises, to every caller of that batch.
        """
        future = self.ask(item, first=first)
        try:
            return await future
        except asyncio.CancelledError:
            # Cancelled between the answer's arrival and ours.
            if (
                future.done()
                and not future.cancelled()
                and not future.exception()
                and self._orphaned is not None
            ):
                self._orphaned(item, future.result())
            raise

    def ask(self, item: Item, *, first: bool = False) -> asyncio.Future[Answer]:
        """Return the answer for one item as a future.

        Args:
            first: Before all others that wait.
        """
        loop = self._loop
        if loop is None:  # finding it out again for each e-mail would cost a system call
            loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.insert(0 if first else len(self._waiting), (item, future))
        if not self._scheduled:
            self._scheduled = True
            # Twice: after all that is ready now has run, and may have called as well.
            loop.call_soon(loop.call_soon, self._start)
        return future

    async def settle(self) -> None:
        """Wait until no call is under way."""
        while self._running:
            await asyncio.wait(self._running)

    def _start(self) -> None:
        self._scheduled = False
        while self._waiting and self._slots:
            batch, self._waiting = (
                self._waiting[: self._max_items],
                self._waiting[self._max_items :],
            )
            if self._drop_cancelled:
                batch = [(item, future) for item, future in batch if not future.done()]
            if batch:
                self._slots -= 1
                task = asyncio.get_running_loop().create_task(self._run(batch))
                self._running.add(task)
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._slots += 1
        self._start()

    async def _run(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._call([item for item, _ in batch])
        except BaseException as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        answered = list(zip(batch, answers, strict=True))
        try:
            while len(answered) > AT_ONCE:
                self._give(answered[:AT_ONCE])
                del answered[:AT_ONCE]
                await asyncio.sleep(0)
        finally:
            self._give(answered)

    def _give(self, answered: list[tuple[tuple[Item, asyncio.Future[Answer]], Answer]]) -> None:
        for (item, future), answer in answered:
            if not future.done():
                future.set_result(answer)
            elif self._orphaned is not None:
                self._orphaned(item, answer)
