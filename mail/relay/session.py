"""One open SMTP connection: it carries transactions, one behind the other.

aiosmtplib opens the connection (TCP, greeting, EHLO, STARTTLS, AUTH); from then on this protocol
has it, because aiosmtplib waits for each reply before the next command. Where the relay takes
PIPELINING (RFC 2920), a body and the next e-mail's envelope travel in one write, so that an e-mail
costs one round trip. There are no tasks and no awaits here but for large bodies: replies drive
everything.
"""

import asyncio
from collections.abc import Callable, Collection

from mail.outcome import Phase, Reply
from mail.relay.learned_rate import is_throttling
from mail.relay.replies import RelayGoneError, ReplyReader
from mail.relay.transaction import Step, TooLargeError, Transaction

BODY_CHUNK_BYTES = 64 * 1024
# A body that the kernel takes at once, whatever the relay does. What waits in this process instead
# is sent when it wakes from a freeze (SIGSTOP, a suspended machine), before anybody can look
# whether the lease is over: so little of a larger body is written together with the dot.
AT_ONCE_BYTES = 16 * 1024
LAST_BYTES = 1024
# A relay that thinks for longer than this about one message shall not hold up the next, whose
# envelope is behind it.
STALL_S = 1.0
RSET = b'RSET\r\n'


class Session(asyncio.Protocol):
    """Transactions out, replies in.

    Attributes:
        size_limit_bytes: The relay's SIZE (RFC 1870), 0 for none.
        most_recipients: The relay's LIMITS RCPTMAX (RFC 9422), None for none.
        messages: Transactions begun.
        worn_out_after: How many it carried, when the relay ended it in between without having let
            it rest.
        idle_since: Kept by the relay's pool; 0 until it was idle.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        extensions: Collection[str],
        size_limit_bytes: int,
        timeouts: 'Timeouts',
        on_free: Callable[['Session'], None],
        next_waiting: Callable[['Session'], Transaction | None],
    ) -> None:
        """Take a connection over on which EHLO, TLS and AUTH are done.

        Args:
            extensions: EHLO's keywords in lower case.
            on_free: Called when a transaction may begin, and when none ever will again (is_open
                tells).
            next_waiting: Asked for a transaction whose envelope may travel along with a body.
        """
        self.size_limit_bytes = size_limit_bytes
        self.most_recipients: int | None = None
        self.messages = 0
        self.worn_out_after: int | None = None
        self._without_rest = False  # the current transaction began right behind another
        self._pipelining = 'pipelining' in extensions
        self._transport = transport
        self._timeouts = timeouts
        self._on_free = on_free
        self._next_waiting = next_waiting
        self._loop = asyncio.get_running_loop()
        self.idle_since = 0.0
        self._reader = ReplyReader()
        self._current: Transaction | None = None
        self._next: Transaction | None = None  # its envelope is on its way behind the current body
        self._close_before_next = (
            False  # an envelope is on its way that nobody wants to send any more
        )
        self._sent = 0  # commands of the current transaction that were written
        self._resetting = False
        self._lost: RelayGoneError | None = None
        self._flushed = asyncio.Event()
        self._flushed.set()
        self._streaming: asyncio.Task[None] | None = None
        self._deadline = self._body_sent_at = 0.0
        self._timeout_s = 0.0
        self._waits_for = ''
        self._timer: asyncio.TimerHandle | None = None
        # resume_writing is called when nothing is left to flush.
        transport.set_write_buffer_limits(
            high=1, low=0
        )  # high=0 would stop a TLS transport with nothing to flush
        transport.set_protocol(self)

    @property
    def is_open(self) -> bool:
        """Whether the connection can still be written to, as far as we know."""
        return self._lost is None and not self._transport.is_closing()

    @property
    def is_free(self) -> bool:
        """Whether a transaction may begin."""
        return self._current is None and self.is_open

    def begin(self, transaction: Transaction) -> None:
        """Start a transaction on a free connection. It ends in transaction.done, whatever happens."""
        if self._may_begin(transaction):
            self._without_rest = self.messages > 1 and not self.idle_since
            self.idle_since = 0.0
            self._current = transaction
            self._arm(self._timeouts.command_s, 'reply')
            if not self._resetting:
                self._send_commands(transaction)

    def _send_commands(self, transaction: Transaction) -> None:
        self._sent = len(transaction.commands) if self._pipelining else 1
        self._write(b''.join(transaction.commands[: self._sent]))

    def _may_begin(self, transaction: Transaction) -> bool:
        transaction.fresh = self.messages == 0 and not self.idle_since
        if not self.is_open:
            transaction.lost(self._lost or RelayGoneError('the connection is closed'))
            return False
        if 0 < self.size_limit_bytes < len(transaction.message):
            transaction.fail(TooLargeError(len(transaction.message), self.size_limit_bytes))
            return False
        try:
            transaction.progress.before_data()
        except Exception as error:  # noqa: BLE001 - whatever the owner of the e-mail raises is for him
            transaction.fail(error)
            return False
        self.messages += 1
        transaction.progress.phase = Phase.MAIL
        return True

    def give_back_stalled(self) -> Transaction | None:
        """Return the transaction that waits behind a body the relay does not answer, to be begun elsewhere."""
        if self._next is None or self._loop.time() < self._body_sent_at + STALL_S:
            return None
        following, self._next = self._next, None
        self._close_before_next = True
        following.progress.phase = Phase.CONNECT
        return following

    def cancel(self, transaction: Transaction) -> None:
        """Stop a transaction nobody waits for any more. What has not reached the relay must not reach it."""
        if transaction is self._next:
            self._next = None
            self._close_before_next = True
        elif transaction is self._current:
            self._fail(RelayGoneError('the e-mail was withdrawn'))

    def close(self) -> None:
        """Close a connection that carries nothing, in order."""
        if self.is_open:
            self._transport.write(b'QUIT\r\n')
        self._lost = self._lost or RelayGoneError('the connection was closed')
        self._transport.close()
        self._disarm()

    # What the relay says.

    def data_received(self, data: bytes) -> None:
        """Hand on whole replies."""
        try:
            for reply in self._reader.feed(data):
                self._received(reply)
        except RelayGoneError as error:
            self._fail(error)

    def _received(self, reply: Reply) -> None:
        if self._lost is not None:
            return
        transaction = self._current
        if self._resetting:
            self._reset_done(reply)
        elif transaction is None:  # mostly 421 before it closes an idle connection
            raise RelayGoneError(f'unasked: {reply}')
        else:
            step = transaction.take(reply, all_sent=self._sent == len(transaction.commands))
            if step is not Step.GO_ON:
                self._do(step, transaction, reply)
            elif self._sent == transaction.answered:
                self._arm(self._timeouts.command_s, 'reply')
                self._write(transaction.commands[self._sent])
                self._sent += 1

    def _do(self, step: Step, transaction: Transaction, reply: Reply) -> None:
        match step:
            case Step.SEND_BODY if not self._reader.is_between_replies:
                raise RelayGoneError('the relay answered before it had the body')
            case Step.SEND_BODY:
                self._send_body(transaction)
            case Step.DONE:
                self._go_on_with_next()
            case Step.RESET:
                self._resetting = True
                self._write(RSET)
                self._free()
            case Step.CLOSE:
                if reply.code == 421 and not is_throttling(reply):
                    self._note_worn_out(transaction, answered=1)
                self._current = None
                self._fail(RelayGoneError(f'closed after {reply}'))

    def _reset_done(self, reply: Reply) -> None:
        self._resetting = False
        if reply.code != 250:
            raise RelayGoneError(f'RSET: {reply}')
        if self._current is not None:
            self._send_commands(self._current)

    def _go_on_with_next(self) -> None:
        self._current, self._next = self._next, None
        self._without_rest = True
        if self._close_before_next:
            self._fail(RelayGoneError('the next e-mail was withdrawn'))
        elif self._current is None:
            self._free()
        else:
            self._sent = len(self._current.commands)
            self._arm(self._timeouts.command_s, 'reply')

    def _free(self) -> None:
        self._disarm()
        self._current = None
        self._on_free(self)

    # Bodies.

    def _send_body(self, transaction: Transaction) -> None:
        """Send the body and the final dot.

        All but the last bytes are sent and flushed first, a chunk at a time, and before each the
        e-mail must still be ours. Until that last write, which ends in the dot, a failure leaves no
        doubt: the relay cannot have the message. From then on until its reply nobody can know.
        """
        if not self._may_go_on(transaction):
            return
        transaction.progress.phase = Phase.BODY
        body = transaction.body()
        if len(body) <= AT_ONCE_BYTES:
            self._end_body(transaction, body)
        else:
            self._streaming = self._loop.create_task(self._stream(transaction, body))

    def _may_go_on(self, transaction: Transaction) -> bool:
        """End the connection if the e-mail is somebody else's by now; without the dot the relay drops what it has."""
        try:
            transaction.progress.before_data()
        except Exception as error:  # noqa: BLE001 - see _may_begin
            transaction.fail(error)
            self._current = None
            self._fail(RelayGoneError('the lease ran out'))
            return False
        return True

    async def _stream(self, transaction: Transaction, body: bytes) -> None:
        last = len(body) - LAST_BYTES
        for start in range(0, last, BODY_CHUNK_BYTES):
            self._arm(self._timeouts.body_s, 'room')
            self._write(body[start : min(start + BODY_CHUNK_BYTES, last)])
            await self._flushed.wait()
            if (
                self._lost is not None
                or transaction.done.done()
                or not self._may_go_on(transaction)
            ):
                return
        self._end_body(transaction, body[last:])

    def _end_body(self, transaction: Transaction, data: bytes) -> None:
        if not self.is_open:
            self._fail(RelayGoneError('the relay closed the connection'))
            return
        following = self._next_waiting(self) if self._pipelining else None
        if following is not None and self._may_begin(following):
            self._next = following
            data += b''.join(following.commands)
        self._sent = len(transaction.commands)
        self._arm(self._timeouts.reply_s, 'reply')
        self._body_sent_at = self._loop.time()
        # The phase first: a cancellation must never see BODY when the dot may be on its way.
        transaction.progress.phase = Phase.BODY_SENT
        self._write(data)

    # The connection's life.

    def _write(self, data: bytes) -> None:
        if self.is_open:
            self._transport.write(data)

    def _arm(self, timeout_s: float, waits_for: str) -> None:
        """Set the time by which something has to happen. The timer itself is moved only when it fires."""
        self._timeout_s = timeout_s
        self._waits_for = waits_for
        self._deadline = self._loop.time() + timeout_s
        if self._timer is None or self._timer.when() > self._deadline:
            self._disarm()
            self._timer = self._loop.call_at(self._deadline, self._timed_out)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _timed_out(self) -> None:
        self._timer = None
        now = self._loop.time()
        if now < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._timed_out)
        elif self._waits_for == 'room':
            self._fail(RelayGoneError(f'the relay did not read for {self._timeout_s:g} s'))
        else:
            self._fail(RelayGoneError(f'no reply within {self._timeout_s:g} s'))

    def eof_received(self) -> None:
        """Note that the relay has closed its side; the transport closes ours."""
        self._ended('the relay closed the connection')

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self._ended(f'connection lost: {exc}' if exc else 'the relay closed the connection')

    def _ended(self, reason: str) -> None:
        if self._current is not None:
            self._note_worn_out(self._current, answered=0)
        self._fail(RelayGoneError(reason))

    def pause_writing(self) -> None:
        """Note that there is something to flush."""
        self._flushed.clear()

    def resume_writing(self) -> None:
        """Note that everything was flushed."""
        self._flushed.set()

    def _note_worn_out(self, current: Transaction, answered: int) -> None:
        if self._without_rest and current.answered == answered:
            self.worn_out_after = self.messages - 1

    def _fail(self, error: RelayGoneError) -> None:
        """End the connection. After a time-out as well: a late reply would be taken for that of the next command."""
        if self._lost is not None:
            return
        self._lost = error
        self._disarm()
        self._transport.abort()
        self._flushed.set()
        ended, self._current, self._next = (self._current, self._next), None, None
        for transaction in ended:
            if transaction is not None:
                transaction.lost(error)
        self._on_free(self)


class Timeouts:
    """How long to wait for a relay, in seconds."""

    def __init__(self, command_s: float, body_s: float, reply_s: float) -> None:
        self.command_s = command_s
        self.body_s = body_s
        self.reply_s = reply_s
