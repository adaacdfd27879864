"""One e-mail to one relay, and to the next if the first cannot take it."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import aiosmtplib

from mail.envelope import Envelope
from mail.outcome import Delivery, Outcome, Phase, Reply, classify
from mail.render import Rendered
from mail.smtp import Connection, Relay, RelayError, RelayOptions, RelayRefusedError, Relays

# Replies to MAIL that speak of our login, not of the e-mail (RFC 4954, 4 and 6).
AUTH_CODES = frozenset({454, 530, 534, 535, 538})
LEADING_DOT = re.compile(rb'^\.', re.MULTILINE)
BODY_CHUNK_BYTES = 64 * 1024

Settled = dict[str, tuple[Outcome, str]]


@dataclass(slots=True)
class Progress:
    """How far an attempt has come; read by whoever cuts it off, and by those who ask what the worker is doing."""

    phase: Phase = Phase.CLAIMED
    relay: str | None = None
    # Called just before DATA; raises when this worker no longer holds the e-mail.
    before_data: Callable[[], None] = field(default=lambda: None)

    @property
    def reached_data_end(self) -> bool:
        """Whether the relay may have the whole message while we do not know its answer."""
        return self.phase is Phase.BODY_SENT


class RelayGoneError(Exception):
    """The connection failed before the final dot: the relay does not have the message."""


async def deliver(relays: Relays, rendered: Rendered, settled: Settled, progress: Progress) -> Delivery:
    """Hand a message to the first relay that takes it.

    A relay that defers, cannot be reached or sends us away is followed by the next healthy one; a refusal for good or
    an unknown outcome is not, because another relay would only repeat it.

    Args:
        settled: Outcomes of recipients from earlier attempts; they get no second copy.
    Returns:
        The outcome for the e-mail as a whole; RELEASED with a waiting time when no relay could be asked at all.
    """
    open_recipients = tuple(r for r in rendered.envelope.recipients if settled.get(r, (None,))[0] not in FINAL)
    attempt = _Attempt(rendered, open_recipients, dict(settled))
    for relay in relays.available():
        progress.relay = relay.name
        delivery = await attempt.on(relay, progress)
        if delivery.outcome not in (Outcome.DEFERRED, Outcome.RELEASED):
            return delivery
    return attempt.conclude(relays.unavailable_for_s())


FINAL = frozenset({Outcome.ACCEPTED, Outcome.REJECTED})


class _Attempt:
    """The relays' answers so far."""

    def __init__(self, rendered: Rendered, recipients: tuple[str, ...], settled: Settled) -> None:
        self.rendered = rendered
        self.recipients = recipients
        self.settled = settled
        self.several = len(rendered.envelope.recipients) > 1
        self.failures: list[Delivery] = []

    async def on(self, relay: Relay, progress: Progress) -> Delivery:
        envelope = Envelope(self.rendered.envelope.sender, self.recipients)
        try:
            answers = await _transact(relay, envelope, self.rendered.message, progress)
        except RelayError as error:
            relay.cool_down(str(error))
            outcome = Outcome.DEFERRED if error.counts else Outcome.RELEASED
            reply = error.reply if isinstance(error, RelayRefusedError) else None
            delivery = Delivery(outcome, progress.phase, relay.name, reply, str(error))
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
    async with relay.connection() as connection:
        fresh = connection.fresh
        try:
            return await _dialogue(connection, relay.options, envelope, message, progress)
        except (RelayGoneError, RelayRefusedError):
            # Closed, or 421, because it was idle or has carried enough: that says nothing about the relay.
            if fresh or progress.phase is not Phase.MAIL:
                raise
    progress.phase = Phase.CONNECT
    async with relay.connection(reuse=False) as connection:
        return await _dialogue(connection, relay.options, envelope, message, progress)


async def _dialogue(
    connection: Connection, options: RelayOptions, envelope: Envelope, message: bytes, progress: Progress
) -> Answers:
    """MAIL, RCPT, DATA, body, final dot, reply.

    Raises:
        RelayGoneError: the connection failed before the final dot was sent.
        RelayRefusedError: 421, or an objection to our login.
    """
    everyone = envelope.recipients
    progress.phase = Phase.MAIL
    size = _size_limit(connection)
    if size and len(message) > size:
        connection.reusable = True
        reply = Reply(552, f"5.3.4 message of {len(message)} bytes is over the relay's limit of {size}")
        return dict.fromkeys(everyone, (Outcome.REJECTED, reply))
    reply = await _command(connection, options, f'MAIL FROM:<{envelope.sender}>')
    if reply.code in AUTH_CODES:
        raise RelayRefusedError(f'{options.name} wants another login: {reply}', reply)
    if (outcome := classify(reply)) is not Outcome.ACCEPTED:
        await _reset(connection, options)
        return dict.fromkeys(everyone, (outcome, reply))

    progress.phase = Phase.RCPT
    answers: Answers = {}
    for recipient in everyone:
        reply = await _command(connection, options, f'RCPT TO:<{recipient}>')
        answers[recipient] = (classify(reply), reply)
    accepted = [recipient for recipient, (outcome, _) in answers.items() if outcome is Outcome.ACCEPTED]
    if not accepted:
        await _reset(connection, options)
        return answers

    progress.phase = Phase.DATA
    progress.before_data()
    reply = await _command(connection, options, 'DATA')
    if reply.code != 354:
        outcome = classify(reply)
        await _reset(connection, options)
        return answers | dict.fromkeys(accepted, (Outcome.DEFERRED if outcome is Outcome.ACCEPTED else outcome, reply))

    outcome, reply = await _send_body(connection, options, message, progress)
    return answers | dict.fromkeys(accepted, (outcome, reply))


async def _command(connection: Connection, options: RelayOptions, line: str) -> Reply:
    try:
        response = await connection.client.execute_command(line.encode(), timeout=options.command_timeout_s)
    except aiosmtplib.SMTPResponseException as error:
        raise RelayGoneError(f'unreadable reply to {line.split(":", maxsplit=1)[0]}: {error.message}') from error
    except (aiosmtplib.SMTPException, OSError) as error:
        raise RelayGoneError(f'{line.split(":", maxsplit=1)[0]}: {error}') from error
    reply = Reply(response.code, response.message)
    if reply.code == 421:
        raise RelayRefusedError(f'{options.name} sends us away: {reply}', reply)
    return reply


async def _reset(connection: Connection, options: RelayOptions) -> None:
    """Bring the connection back to its start, so that it can carry the next e-mail."""
    try:
        connection.reusable = (await _command(connection, options, 'RSET')).code == 250
    except (RelayGoneError, RelayRefusedError):
        connection.close()  # the answer we have stands; only the connection is lost


async def _send_body(
    connection: Connection, options: RelayOptions, message: bytes, progress: Progress
) -> tuple[Outcome, Reply]:
    """Send the body and the final dot and wait for the verdict.

    All but the last chunk is sent and flushed first. Until that last write, which ends in the dot, a failure leaves no
    doubt: the relay cannot have the message. From then on until its reply nobody can know.
    """
    protocol = connection.client.protocol
    if protocol is None or protocol.transport is None:
        raise RelayGoneError('the connection closed after DATA')
    data = LEADING_DOT.sub(b'..', message) + (b'' if message.endswith(b'\r\n') else b'\r\n') + b'.\r\n'
    progress.phase = Phase.BODY
    last = max(0, len(data) - BODY_CHUNK_BYTES)
    try:
        if last:
            writer = asyncio.StreamWriter(protocol.transport, protocol, None, asyncio.get_running_loop())  # type: ignore[arg-type]
            async with asyncio.timeout(options.body_timeout_s):
                for start in range(0, last, BODY_CHUNK_BYTES):
                    writer.write(data[start : min(start + BODY_CHUNK_BYTES, last)])
                    await writer.drain()
        protocol.write(data[last:])
    except (aiosmtplib.SMTPException, OSError) as error:
        connection.close()
        raise RelayGoneError(f'while sending the body: {error or type(error).__name__}') from error
    # No await between the write above and here: a cancellation must never see BODY after the dot is on its way.
    progress.phase = Phase.BODY_SENT
    try:
        response = await protocol.read_response(timeout=options.reply_timeout_s)
    except aiosmtplib.SMTPResponseException as error:
        connection.close()
        return Outcome.UNCERTAIN, Reply(0, f'unreadable reply to the final dot: {error.message}')
    except (aiosmtplib.SMTPException, OSError) as error:
        connection.close()
        return Outcome.UNCERTAIN, Reply(0, f'no reply to the final dot: {error}')
    progress.phase = Phase.REPLIED
    reply = Reply(response.code, response.message)
    if reply.code == 421:
        raise RelayRefusedError(f'{options.name} sends us away: {reply}', reply)
    connection.reusable = True
    return classify(reply), reply


def _size_limit(connection: Connection) -> int:
    """Return the relay's SIZE (RFC 1870) in bytes, 0 for none."""
    announced = connection.client.esmtp_extensions.get('size', '')
    return int(announced) if announced.isdigit() else 0
