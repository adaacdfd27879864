"""One e-mail to one relay, and to the next if the first cannot take it."""

import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from mail.envelope import Envelope
from mail.outcome import Delivery, Outcome, Phase, Reply, Settled, classify
from mail.render import Rendered
from mail.session import RelayGoneError, Session
from mail.smtp import Connection, Relay, RelayError, RelayOptions, RelayRefusedError, Relays

# Replies to MAIL that speak of our login, not of the e-mail (RFC 4954, 4 and 6).
AUTH_CODES = frozenset({454, 530, 534, 535, 538})
LEADING_DOT = re.compile(rb'^\.', re.MULTILINE)
BODY_CHUNK_BYTES = 64 * 1024


@dataclass(slots=True)
class Progress:
    """How far an attempt has come; read by whoever cuts it off, and by those who ask what the worker is doing."""

    phase: Phase = Phase.CLAIMED
    relay: str | None = None
    started_at: float = field(default_factory=time.time)  # seconds since 1970
    # Does not queue for a connection: the shorter it is under way, the less it can be lost by chance once more.
    urgent: bool = False
    # What is known of several recipients so far, for whoever has to record an attempt that was cut off.
    recipients: Settled | None = None
    # Called just before DATA; raises when this worker no longer holds the e-mail.
    before_data: Callable[[], None] = field(default=lambda: None)

    @property
    def reached_data_end(self) -> bool:
        """Whether the relay may have the whole message while we do not know its answer."""
        return self.phase is Phase.BODY_SENT


async def deliver(relays: Relays, rendered: Rendered, settled: Settled, progress: Progress) -> Delivery:
    """Hand a message to the first relay that takes it.

    A relay that defers, cannot be reached or sends us away is followed by the next healthy one; a refusal for good or
    an unknown outcome is not, because another relay would only repeat it.

    Args:
        settled: Outcomes of recipients from earlier attempts; they get no second copy.
    Returns:
        The outcome for the e-mail as a whole; RELEASED with a waiting time when no relay could be asked at all.
    """
    attempt = _Attempt(rendered, open_recipients(rendered.envelope.recipients, settled), dict(settled), progress)
    for relay in relays.available():
        progress.relay = relay.name
        delivery = await attempt.on(relay)
        if delivery.outcome not in (Outcome.DEFERRED, Outcome.RELEASED):
            return delivery
    return attempt.conclude(relays.unavailable_for_s())


FINAL = frozenset({Outcome.ACCEPTED, Outcome.REJECTED})


def open_recipients(recipients: tuple[str, ...], settled: Settled) -> tuple[str, ...]:
    """Return who is still to get the e-mail.

    When an operator has everything settled tried again: those who were refused; and everybody when nobody was.
    """
    for given_up in (FINAL, {Outcome.ACCEPTED}):
        left = tuple(r for r in recipients if settled.get(r, (None,))[0] not in given_up)
        if left:
            return left
    return recipients


class _Attempt:
    """The relays' answers so far."""

    def __init__(self, rendered: Rendered, recipients: tuple[str, ...], settled: Settled, progress: Progress) -> None:
        self.progress = progress
        self.rendered = rendered
        self.recipients = recipients
        self.settled = settled
        self.several = len(rendered.envelope.recipients) > 1
        self.failures: list[Delivery] = []

    async def on(self, relay: Relay) -> Delivery:
        progress = self.progress
        envelope = Envelope(self.rendered.envelope.sender, self.recipients)
        try:
            answers = await _transact(relay, envelope, self.rendered.message, progress)
        except RelayError as error:
            relay.cool_down(str(error))
            outcome = Outcome.DEFERRED if error.counts else Outcome.RELEASED
            delivery = Delivery(outcome, progress.phase, relay.name, error.reply, str(error))
        except RelayGoneError as error:
            delivery = Delivery(Outcome.DEFERRED, progress.phase, relay.name, None, f'{relay.name}: {error}')
        else:
            relay.recovered()
            delivery = self._sum_up(answers, relay.name, progress.phase)
        if delivery.outcome in (Outcome.DEFERRED, Outcome.RELEASED):
            self.failures.append(delivery)
        return delivery

    def _sum_up(self, answers: 'Answers', relay: str, phase: Phase) -> Delivery:
        """Join the answers for each recipient into one: what is still open decides, then what was accepted."""
        for recipient, (outcome, reply) in answers.items():
            self.settled[recipient] = (outcome, str(reply))
        if self.several:
            self.progress.recipients = self.settled
        for outcome in (Outcome.UNCERTAIN, Outcome.DEFERRED, Outcome.ACCEPTED, Outcome.REJECTED):
            replies = [reply for o, reply in answers.values() if o is outcome]
            if replies:
                break
        if outcome is Outcome.REJECTED and any(o is Outcome.ACCEPTED for o, _ in self.settled.values()):
            outcome = Outcome.ACCEPTED  # by an earlier attempt; the refused ones are told one by one
        refused = [f'{r}: {reply}' for r, (o, reply) in answers.items() if self.several and o is not Outcome.ACCEPTED]
        self.recipients = tuple(r for r in self.recipients if self.settled[r][0] not in FINAL)
        reply = replies[0]
        return Delivery(
            outcome,
            phase,
            relay,
            reply if reply.code else None,
            '; '.join(refused) or (None if outcome is Outcome.ACCEPTED else f'{relay}: {reply.text or reply}'),
            self.settled if self.several else None,
        )

    def conclude(self, unavailable_for_s: float) -> Delivery:
        """Return the outcome when no relay took the message: deferred if any counted, else released."""
        said = '; '.join(d.error for d in self.failures if d.error)
        for delivery in self.failures:
            if delivery.outcome is Outcome.DEFERRED:
                settled = self.settled if self.several else None
                return Delivery(Outcome.DEFERRED, delivery.phase, delivery.relay, delivery.reply, said, settled)
        last = self.failures[-1] if self.failures else Delivery(Outcome.RELEASED, Phase.CONNECT)
        return Delivery(
            Outcome.RELEASED,
            last.phase,
            last.relay,
            last.reply,
            said or 'no relay is available',
            retry_in_s=max(unavailable_for_s, 0.5),
        )


Answers = dict[str, tuple[Outcome, Reply]]


async def _transact(relay: Relay, envelope: Envelope, message: bytes, progress: Progress) -> Answers:
    """Run one transaction; on a kept connection that the relay has given up meanwhile, once more on a new one."""
    progress.phase = Phase.CONNECT
    async with relay.connection(urgent=progress.urgent) as connection:
        fresh = connection.fresh
        try:
            return await _dialogue(connection, relay.options, envelope, message, progress)
        except (RelayGoneError, RelayRefusedError):
            # Closed, or 421, because it was idle or has carried enough: that says nothing about the relay.
            if fresh or progress.phase is not Phase.MAIL:
                raise
    progress.phase = Phase.CONNECT
    async with relay.connection(reuse=False, urgent=progress.urgent) as connection:
        return await _dialogue(connection, relay.options, envelope, message, progress)


async def _dialogue(
    connection: Connection, options: RelayOptions, envelope: Envelope, message: bytes, progress: Progress
) -> Answers:
    """MAIL, RCPT, DATA, body, final dot, reply.

    Raises:
        RelayGoneError: the connection failed before the final dot was sent.
        RelayRefusedError: 421, or an objection to our login.
    """
    session = connection.session
    everyone = envelope.recipients
    if 0 < session.size_limit_bytes < len(message):
        connection.reusable = True
        reply = Reply(552, f"5.3.4 message of {len(message)} bytes is over the relay's {session.size_limit_bytes}")
        return dict.fromkeys(everyone, (Outcome.REJECTED, reply))
    progress.before_data()
    commands = _Commands(session, options)
    commands.queue(f'MAIL FROM:<{envelope.sender}>', *(f'RCPT TO:<{recipient}>' for recipient in everyone), 'DATA')

    progress.phase = Phase.MAIL
    reply = await commands.next()
    if reply.code in AUTH_CODES:
        raise RelayRefusedError(f'{options.name} wants another login: {reply}', reply)
    if (outcome := classify(reply)) is not Outcome.ACCEPTED:
        await _withdraw(connection, commands)
        return dict.fromkeys(everyone, (outcome, reply))

    progress.phase = Phase.RCPT
    answers: Answers = {}
    for recipient in everyone:
        reply = await commands.next()
        answers[recipient] = (classify(reply), reply)
    accepted = [recipient for recipient, (outcome, _) in answers.items() if outcome is Outcome.ACCEPTED]
    if not accepted:
        await _withdraw(connection, commands)
        return answers

    progress.phase = Phase.DATA
    reply = await commands.next()
    if reply.code != 354:
        outcome = classify(reply)
        await _withdraw(connection, commands)
        return answers | dict.fromkeys(accepted, (Outcome.DEFERRED if outcome is Outcome.ACCEPTED else outcome, reply))

    progress.before_data()
    outcome, reply = await _send_body(connection, options, message, progress)
    return answers | dict.fromkeys(accepted, (outcome, reply))


class _Commands:
    """Commands in their order: all at once where the relay takes that (RFC 2920), one by one elsewhere."""

    def __init__(self, session: Session, options: RelayOptions) -> None:
        self._session = session
        self._options = options
        self._unsent: deque[str] = deque()
        self._unanswered: deque[str] = deque()

    def queue(self, *lines: str) -> None:
        if 'pipelining' in self._session.extensions:
            self._unanswered += lines
            self._session.write('\r\n'.join((*lines, '')).encode())
        else:
            self._unsent += lines

    async def next(self) -> Reply:
        """Return the reply to the next command."""
        if not self._unanswered:
            self._unanswered.append(self._unsent.popleft())
            self._session.write(f'{self._unanswered[0]}\r\n'.encode())
        verb = self._unanswered.popleft().partition(':')[0]
        try:
            reply = await self._session.reply(self._options.command_timeout_s)
        except RelayGoneError as error:
            raise RelayGoneError(f'{verb}: {error}') from error
        if reply.code == 421:
            raise RelayRefusedError(f'{self._options.name} sends us away: {reply}', reply)
        return reply

    async def rest(self) -> list[Reply]:
        """Return the replies to what was sent already; what was not is dropped."""
        self._unsent.clear()
        return [await self.next() for _ in range(len(self._unanswered))]


async def _withdraw(connection: Connection, commands: _Commands) -> None:
    """Bring the connection back to its start, so that it can carry the next e-mail."""
    try:
        rest = await commands.rest()
        if rest and rest[-1].code == 354:
            return  # DATA was sent along and taken without a recipient: only closing takes it back for certain
        commands.queue('RSET')
        connection.reusable = (await commands.next()).code == 250
    except (RelayGoneError, RelayRefusedError):
        connection.reusable = False  # the answer we have stands; only the connection is lost


async def _send_body(
    connection: Connection, options: RelayOptions, message: bytes, progress: Progress
) -> tuple[Outcome, Reply]:
    """Send the body and the final dot and wait for the verdict.

    All but the last chunk is sent and flushed first. Until that last write, which ends in the dot, a failure leaves no
    doubt: the relay cannot have the message. From then on until its reply nobody can know.
    """
    session = connection.session
    data = LEADING_DOT.sub(b'..', message) + (b'' if message.endswith(b'\r\n') else b'\r\n') + b'.\r\n'
    progress.phase = Phase.BODY
    last = max(0, len(data) - BODY_CHUNK_BYTES)
    for start in range(0, last, BODY_CHUNK_BYTES):
        session.write(data[start : min(start + BODY_CHUNK_BYTES, last)])
        await session.flush(options.body_timeout_s)
    session.write(data[last:])
    # No await since the write: a cancellation must never see BODY after the dot is on its way.
    progress.phase = Phase.BODY_SENT
    try:
        reply = await session.reply(options.reply_timeout_s)
    except RelayGoneError as error:
        return Outcome.UNCERTAIN, Reply(0, f'no reply to the final dot: {error}')
    progress.phase = Phase.REPLIED
    if reply.code == 421:
        raise RelayRefusedError(f'{options.name} sends us away: {reply}', reply)
    connection.reusable = True
    return classify(reply), reply
