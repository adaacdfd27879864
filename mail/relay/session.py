"""One open SMTP connection: it carries transactions, one behind the other.

aiosmtplib opens the connection (TCP, greeting, EHLO, STARTTLS, AUTH); from then on this protocol
has it, because aiosmtplib waits for each reply before the next command. There are no tasks and no
awaits here but for large bodies: replies drive everything, by the table in session_state.py.
"""

import asyncio
from collections.abc import Callable

from mail.outcome import Phase, Reply
from mail.relay import session_state as states
from mail.relay.deadline import Deadline
from mail.relay.errors import RelayGoneError
from mail.relay.greeting import Extensions
from mail.relay.learned_limits import says_used_up
from mail.relay.options import Timeouts
from mail.relay.replies import ReplyReader
from mail.relay.session_state import FREE, TRANSITIONS, Event, Usage
from mail.relay.transaction import GO_ON, Step, Transaction

BODY_CHUNK_BYTES = 64 * 1024  # each has the 3 minutes of RFC 5321, 4.5.3.2.5
# A body that the kernel takes at once, whatever the relay does. What waits in this process instead
# is sent when it wakes from a freeze (SIGSTOP, a suspended machine), before anybody can look
# whether the lease is over: so little of a larger body is written together with the dot.
AT_ONCE_BYTES = 16 * 1024
LAST_BYTES = 1024
# A relay that thinks for longer than this about one message shall not hold up the next, whose
# envelope is behind it.
STALL_S = 1.0
RSET = b'RSET\r\n'  # takes an envelope back and keeps the connection (RFC 5321, 4.1.1.5)
NO_REPLY, NO_ROOM = 'no reply within', 'the relay did not read for'


class Session(asyncio.Protocol):
    """Transactions out, replies in."""

    def __init__(
        self,
        transport: asyncio.Transport,
        extensions: Extensions,
        timeouts: Timeouts,
        on_free: Callable[['Session'], None],
        next_waiting: Callable[['Session'], Transaction | None],
    ) -> None:
        """Take a connection over on which EHLO, TLS and AUTH are done.

        on_free is called when a transaction may begin, and when none ever will again (is_open
        tells); next_waiting is asked for a transaction whose envelope may travel behind a body.
        """
        self.extensions = extensions
        self.usage = Usage()
        self.state = states.IDLE
        self._transport = transport
        self._timeouts = timeouts
        self._on_free = on_free
        self._next_waiting = next_waiting
        self._reader = ReplyReader()
        self._current: Transaction | None = None
        self._following: Transaction | None = None  # its envelope is behind the current body
        self._lost: RelayGoneError | None = None
        self._flushed = asyncio.Event()
        self._flushed.set()
        self._streaming: asyncio.Task[None] | None = None  # kept: the loop holds it weakly
        self._deadline = Deadline(self._fail)
        # resume_writing is called when nothing is left to flush. high=0 would stop a TLS transport
        # that has nothing to flush.
        transport.set_write_buffer_limits(high=1, low=0)
        transport.set_protocol(self)

    @property
    def is_open(self) -> bool:
        """Whether the connection can still be written to, as far as we know."""
        return self._lost is None and not self._transport.is_closing()

    @property
    def is_free(self) -> bool:
        """Whether a transaction may begin."""
        return self.state in FREE and self.is_open

    def begin(self, transaction: Transaction) -> None:
        """Start a transaction on a free connection. It ends in transaction.done in any case."""
        if self._may_begin(transaction):
            self.usage.without_rest = self.usage.messages > 1 and not self.usage.idle_since
            self.usage.idle_since = 0.0
            self._current = transaction
            self._deadline.set(self._timeouts.command_s, NO_REPLY)  # for each: RFC 5321, 4.5.3.2
            self._move(states.BEGIN)
            if self.state is states.ENVELOPE:
                self._send_commands(transaction)

    def give_back_stalled(self) -> Transaction | None:
        """Return what waits behind a body that the relay does not answer, to be begun elsewhere."""
        following = self._following
        if following is None or self._deadline.age_s() < STALL_S:
            return None
        self._withdraw_following()
        following.progress.phase = Phase.CONNECT  # an outage costs no attempt of who waits
        return following

    def cancel(self, transaction: Transaction) -> None:
        """Stop a transaction that nobody waits for; nothing more of it is sent."""
        if transaction is self._following:
            self._withdraw_following()
        elif transaction is self._current:
            self._fail('the e-mail was withdrawn')  # closing voids it (RFC 5321, 4.1.1.10)

    def close(self) -> None:
        """Close a connection that carries nothing, in order."""
        if self.is_open:
            self._transport.write(b'QUIT\r\n')  # not closed before QUIT: RFC 5321, 4.1.1.10
        if self._lost is None:
            self._lost = RelayGoneError('the connection was closed')
            self._move(states.ENDED)
        self._transport.close()
        self._deadline.clear()

    def _move(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state][event]

    def _withdraw_following(self) -> None:
        self._following = None
        self._move(states.NEXT_WITHDRAWN)

    def _send_commands(self, transaction: Transaction) -> None:
        transaction.sent = len(transaction.commands) if self.extensions.pipelining else 1
        self._write(b''.join(transaction.commands[: transaction.sent]))  # 1.1 round trips, not 4

    def _may_begin(self, transaction: Transaction) -> bool:
        transaction.fresh = self.usage.messages == 0 and not self.usage.idle_since
        if not self.is_open:
            transaction.lost(self._lost or RelayGoneError('the connection is closed'))
            return False
        if not (transaction.suits(self.extensions) and transaction.is_ours()):
            return False
        self.usage.messages += 1  # some relays take only so many on one connection
        transaction.progress.phase = Phase.MAIL  # a loss counts from here: the e-mail may cause it
        return True

    # What the relay says.

    def data_received(self, data: bytes) -> None:
        """Hand on whole replies."""
        try:
            for reply in self._reader.feed(data):  # one by one: those before nonsense still count
                self._received(reply)
        except RelayGoneError as error:
            self._fail(error)

    def _received(self, reply: Reply) -> None:
        transaction = self._current
        if transaction is None or self.state is states.RESET_THEN_BEGIN:
            self._received_between(reply)
        elif (step := transaction.take(reply)) is not GO_ON:
            self._do(step, transaction, reply)
        elif transaction.sent == transaction.answered:
            self._deadline.set(self._timeouts.command_s, NO_REPLY)
            self._write(transaction.commands[transaction.sent])
            transaction.sent += 1

    def _do(self, step: Step, transaction: Transaction, reply: Reply) -> None:
        match step:
            case Step.DONE:
                self._go_on_with_following()
            case Step.SEND_BODY if not self._reader.is_between_replies:  # it would be the verdict
                raise RelayGoneError('the relay answered before it had the body')
            case Step.SEND_BODY:
                self._move(states.BODY_WANTED)
                self._send_body(transaction)
            case Step.RESET:
                self._move(states.REFUSED)
                self._write(RSET)
                self._free()
            case Step.CLOSE:
                if says_used_up(reply):
                    self.usage.note_end(is_between=transaction.answered == 1)
                self._current = None
                self._fail(f'closed after {reply}')

    def _received_between(self, reply: Reply) -> None:
        if self.state is states.CLOSED:
            return
        if self.state is states.IDLE:  # mostly 421 before it closes an idle one (RFC 5321, 3.8)
            raise RelayGoneError(f'unasked: {reply}')
        if reply.code != 250:  # the only reply that RFC 5321, 4.1.1.5, has for RSET
            raise RelayGoneError(f'RSET: {reply}')
        self._move(states.RESET_DONE)
        if self._current is not None:
            self._send_commands(self._current)

    def _go_on_with_following(self) -> None:
        self._current, self._following = self._following, None
        self.usage.without_rest = True
        if self.state is states.VERDICT_THEN_END:
            self._fail('the next e-mail was withdrawn')  # RSET would come behind its DATA
            return
        self._move(states.VERDICT_CAME)
        if self._current is None:
            self._free()
        else:
            self._deadline.set(self._timeouts.command_s, NO_REPLY)

    def _free(self) -> None:
        self._deadline.clear()
        self._current = None
        self._on_free(self)

    def _send_body(self, transaction: Transaction) -> None:
        """Send the body and the final dot.

        All but the last bytes are sent and flushed first, a chunk at a time, and before each the
        e-mail must still be ours. Until that last write, which ends in the dot, a failure leaves no
        doubt: the relay cannot have the message. From then on until its reply nobody can know.
        """
        if not self._may_go_on(transaction):  # the relay may have thought for longer than a lease
            return
        transaction.progress.phase = Phase.BODY
        body = transaction.body()
        if len(body) <= AT_ONCE_BYTES:
            self._end_body(transaction, body)
        else:
            streaming = self._stream(transaction, body)
            self._streaming = asyncio.get_running_loop().create_task(streaming)

    def _may_go_on(self, transaction: Transaction) -> bool:
        """End the connection if the lease ran out: without the dot the e-mail is void."""
        is_ours = transaction.is_ours()
        if not is_ours:
            self._current = None
            self._fail('the lease ran out')  # the relay drops it: RFC 5321, 4.1.1.10
        return is_ours

    async def _stream(self, transaction: Transaction, body: bytes) -> None:
        last = len(body) - LAST_BYTES
        for start in range(0, last, BODY_CHUNK_BYTES):
            self._deadline.set(self._timeouts.body_s, NO_ROOM)  # RFC 5321, 4.5.3.2.5
            self._write(body[start : min(start + BODY_CHUNK_BYTES, last)])
            await self._flushed.wait()  # what is buffered goes out after a freeze, lease or not
            over = self.state is states.CLOSED or transaction.done.done()
            if over or not self._may_go_on(transaction):
                return
        self._end_body(transaction, body[last:])

    def _end_body(self, transaction: Transaction, data: bytes) -> None:
        if not self.is_open:
            self._fail('the relay closed the connection')
            return
        following = self._next_waiting(self) if self.extensions.pipelining else None
        if following is not None and self._may_begin(following):
            self._following = following
            following.sent = len(following.commands)
            data += b''.join(following.commands)  # behind the dot: RFC 2920, 3.1
        self._deadline.set(self._timeouts.reply_s, NO_REPLY)  # 10 minutes: RFC 5321, 4.5.3.2.6
        # Before the write: a cancellation must never see BODY when the dot may be on its way.
        transaction.progress.phase = Phase.BODY_SENT
        self._move(states.DOT if self._following is None else states.DOT_AND_NEXT)
        self._write(data)

    # The connection's life.

    def _write(self, data: bytes) -> None:
        if self.is_open:
            self._transport.write(data)

    def eof_received(self) -> None:
        """Note that the relay has closed its side; the transport closes ours."""
        self._ended('the relay closed the connection')

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is under way."""
        self._ended(f'connection lost: {exc}' if exc else 'the relay closed the connection')

    def _ended(self, reason: str) -> None:
        if self._current is not None:  # some relays end a used-up connection without 421
            self.usage.note_end(is_between=self._current.answered == 0)
        self._fail(reason)

    def pause_writing(self) -> None:
        """Note that there is something to flush."""
        self._flushed.clear()

    def resume_writing(self) -> None:
        """Note that everything was flushed."""
        self._flushed.set()

    def _fail(self, reason: RelayGoneError | str) -> None:
        """End the connection; after a time-out as well, or a late reply would be the next one's."""
        if self._lost is not None:
            return
        error = RelayGoneError(reason) if isinstance(reason, str) else reason
        self._lost = error
        self._move(states.ENDED)
        self._deadline.clear()
        self._transport.abort()  # close() would still send what is buffered
        self._flushed.set()  # or a body waits for room for ever
        ended = [t for t in (self._current, self._following) if t is not None]
        self._current = self._following = None
        for transaction in ended:
            transaction.lost(error)
        self._on_free(self)
