"""One e-mail's SMTP transaction, without the connection: what to say, and what each reply means.

MAIL, RCPT for each recipient, DATA, body, final dot. Whoever has the connection writes `commands`
(all at once where the relay takes that, RFC 2920), hands in the replies one by one, and does what
`take` says.
"""

import asyncio
import re
from enum import Enum, auto

from mail.outcome import Outcome, Phase, Reply
from mail.progress import Progress
from mail.relay.errors import (
    NoEightBitError,
    NoUtf8Error,
    RelayGoneError,
    RelayRefusedError,
    TooLargeError,
    UnfitError,
)
from mail.relay.greeting import Extensions
from mail.relay.learned_limits import says_used_up
from mail.relay.learned_rate import is_throttling
from mail.relay.recipients import left_over, says_too_many
from mail_outbox.rendered import Rendered

# Replies to MAIL that speak of our login, not of the e-mail (RFC 4954, 4 and 6).
AUTH_CODES = frozenset({454, 530, 534, 535, 538})
LATER_LEADING_DOT = re.compile(rb'\n\.')  # found in half the time that `in` takes

Answers = dict[str, tuple[Outcome, Reply]]


class Step(Enum):
    """What to do after a reply."""

    GO_ON = auto()  # there are more replies to come, or commands to write
    SEND_BODY = auto()
    RESET = auto()  # answered; the relay still has the envelope
    CLOSE = auto()  # answered; only closing takes back what the relay has
    DONE = auto()


GO_ON = Step.GO_ON  # bound once, see mail.relay.session_state


class Transaction:
    """The state of one transaction.

    Attributes:
        commands: What to write before the body, a line each.
        done: The answer for each recipient, once there is one. Fails with RelayGoneError when the
            connection failed before the final dot, with RelayRefusedError on 421 or an objection to
            our login, with UnfitError, and with what progress.before_data raises. The outcome of
            recipients it had no room for is RELEASED: they go in another transaction.
        room: How many recipients it had room for; None when nothing spoke of a limit.
        fresh: Whether its connection had carried none before, nor been idle; set by the connection.
    """

    def __init__(self, relay_name: str, rendered: Rendered, progress: Progress) -> None:
        self.relay_name = relay_name
        envelope = rendered.envelope
        self.recipients = envelope.recipients
        self.rendered = rendered
        self.progress = progress
        self.fresh = True
        self.room: int | None = None
        self.done: asyncio.Future[Answers] = asyncio.get_running_loop().create_future()
        self.commands = [
            f'MAIL FROM:<{envelope.sender}>\r\n'.encode(),
            *(f'RCPT TO:<{recipient}>\r\n'.encode() for recipient in envelope.recipients),
            b'DATA\r\n',
        ]
        self.sent = self.answered = 0  # commands that were written, and replied to
        self._parameters = ''  # of MAIL
        self._answers: Answers = {}
        self._withdrawn = (
            False  # refused before DATA; the replies to what was sent along are still to come
        )

    def body(self) -> bytes:
        """Return the message as it travels: dot-stuffed, with the final dot."""
        # RFC 5321, 4.5.2: a line of one dot would end the message.
        message = self.rendered.message
        if LATER_LEADING_DOT.search(message):
            message = message.replace(b'\n.', b'\n..')
        if message.startswith(b'.'):
            message = b'.' + message
        return message + (b'.\r\n' if message.endswith(b'\r\n') else b'\r\n.\r\n')

    def suits(self, extensions: Extensions) -> bool:
        """Make it what the relay takes; where that cannot be, end without an answer."""
        try:
            parameters = self._adapt(extensions)
        except UnfitError as error:
            self.fail(error)
            return False
        if parameters != self._parameters:  # nearly never; another connection may offer less
            self._parameters = parameters
            sender = self.rendered.envelope.sender
            self.commands[0] = f'MAIL FROM:<{sender}>{parameters}\r\n'.encode()
        return True

    def _adapt(self, extensions: Extensions) -> str:
        """Return the parameters of MAIL.

        Raises:
            UnfitError: the relay does not offer what the message needs.
        """
        rendered, parameters = self.rendered, ''
        if rendered.eight_bit != ():
            if not extensions.eight_bit:
                encoded = rendered.in_seven_bits()
                if encoded is None:
                    raise NoEightBitError
                self.rendered = rendered = encoded
            else:
                parameters = ' BODY=8BITMIME'
        if not (rendered.is_ascii and all(map(str.isascii, self.recipients))):
            if not extensions.utf8:
                raise NoUtf8Error(next((to for to in self.recipients if not to.isascii()), None))
            parameters += ' SMTPUTF8'
        # A SIZE of 0 sets no limit (RFC 1870); dots that are doubled do not count.
        if 0 < extensions.size_limit_bytes < len(rendered.message):
            raise TooLargeError(len(rendered.message), extensions.size_limit_bytes)
        return parameters

    def is_ours(self) -> bool:
        """Tell whether this worker still holds the e-mail; else end without an answer."""
        try:
            # A worker that was frozen for longer than its lease finds that another has the e-mail.
            self.progress.before_data()
        except Exception as error:  # noqa: BLE001 - whatever the e-mail's owner raises is for its caller
            self.fail(error)
            return False
        return True

    def take(self, reply: Reply) -> Step:
        """Take the reply to the next command, or the verdict on the body."""
        index, data = self.answered, len(self.commands) - 1
        self.answered += 1
        if index > data:
            return self._take_verdict(reply)
        if self._withdrawn:
            return self._rest(reply, is_last=index == data)
        # RFC 5321, 3.8: 421 may answer any command, and the connection ends with it.
        if reply.code == 421:
            return self._take_421(reply, index)
        if index == 0:
            return self._take_mail(reply)
        if index < data:
            return self._take_rcpt(reply, self.recipients[index - 1], is_last=index == data - 1)
        return self._take_data(reply)

    def _take_mail(self, reply: Reply) -> Step:
        # Amazon SES says 454 to a rate as well: "454 Throttling failure".
        if reply.code in AUTH_CODES and not is_throttling(reply):
            return self.fail(
                RelayRefusedError(f'{self.relay_name} wants another login: {reply}', reply)
            )
        if not self.fresh and says_used_up(reply):
            return self.fail(
                RelayRefusedError(f'{self.relay_name} wants a new connection: {reply}', reply)
            )
        if (outcome := self.progress.classify(reply)) is not Outcome.ACCEPTED:
            self._answers = dict.fromkeys(self.recipients, (outcome, reply))
            return self._withdraw()
        self.progress.phase = Phase.RCPT
        return GO_ON

    def _take_rcpt(self, reply: Reply, recipient: str, *, is_last: bool) -> Step:
        self._answers[recipient] = (self.progress.classify(reply), reply)
        if not is_last:
            return GO_ON
        if not (accepted := self._accepted()):
            return self._withdraw()
        if len(accepted) < len(self.recipients):
            # RFC 5321, 4.5.3.1.10: who finds no room is sent to in another transaction.
            for later in left_over(self._answers):
                self._answers[later] = (Outcome.RELEASED, self._answers[later][1])
                self.room = len(accepted)
        self.progress.phase = Phase.DATA
        return GO_ON

    def _take_data(self, reply: Reply) -> Step:
        if reply.code == 354:
            return Step.SEND_BODY
        # Only 354 asks for the body (RFC 5321, 4.1.1.4): after a 2xx the relay has none.
        outcome = self.progress.classify(reply)
        self._answer_accepted(Outcome.DEFERRED if outcome is Outcome.ACCEPTED else outcome, reply)
        return Step.RESET

    def _take_verdict(self, reply: Reply) -> Step:
        early = self.progress.phase is not Phase.BODY_SENT
        self.progress.phase = Phase.REPLIED
        # A 421 never counts, at whatever point it comes (docs/delivery-guarantee.md).
        if reply.code == 421:
            return self._take_421(reply, len(self.commands))
        outcome = self.progress.classify(reply)
        if early:  # it has only a part of the body, and takes what follows for the rest of it
            self._answer_accepted(
                Outcome.DEFERRED if outcome is Outcome.ACCEPTED else outcome, reply
            )
            return Step.CLOSE
        self._answer_accepted(outcome, reply)
        return Step.DONE

    def _take_421(self, reply: Reply, index: int) -> Step:
        """Take note that the relay ends the connection, be it over the number of recipients."""
        # A relay that ends the connection at the eleventh recipient gets ten at a time.
        if 0 < index <= len(self.recipients):
            self._answers[self.recipients[index - 1]] = (Outcome.RELEASED, reply)
        if says_too_many(reply) and index > len(self.recipients) and len(self._accepted()) > 1:
            self._answer_accepted(Outcome.RELEASED, reply)
        elif not self._ended_over_recipients(reply):
            return self.fail(RelayRefusedError(f'{self.relay_name} sends us away: {reply}', reply))
        return Step.CLOSE

    def _ended_over_recipients(self, reply: Reply) -> bool:
        """End with no outcome for those not refused, if the relay said that they are too many.

        Postfix closes the connection after so many refusals (smtpd_hard_error_limit).
        """
        over = left_over(self._answers)
        if not over or self.progress.phase not in (Phase.RCPT, Phase.DATA):
            return False
        accepted = self._accepted()
        self.room = len(accepted)
        unknown = [recipient for recipient in self.recipients if recipient not in self._answers]
        self.resolve(
            self._answers | dict.fromkeys([*accepted, *over, *unknown], (Outcome.RELEASED, reply))
        )
        return True

    def _withdraw(self) -> Step:
        """Note that nobody is left to send to, and bring the connection back to its start.

        Commands that were sent along are replied to all the same, and are waited for.
        """
        if self.sent == len(self.commands):
            self._withdrawn = True
            return GO_ON
        self.resolve(self._answers)
        return Step.RESET

    def _rest(self, reply: Reply, *, is_last: bool) -> Step:
        if not is_last:
            return GO_ON
        self.resolve(self._answers)
        # RFC 2920, 3.1: DATA may be accepted though nobody is. What came next would be the message.
        return Step.CLOSE if reply.code == 354 else Step.RESET

    def lost(self, error: Exception) -> None:
        """Note that the connection is gone.

        Nobody knows the outcome where the final dot was sent and not replied to.
        """
        if self._withdrawn:
            self.resolve(self._answers)
        elif self.progress.reached_data_end:
            # A second copy may come of this, with the same Message-ID and Date.
            self._answer_accepted(
                Outcome.UNCERTAIN, Reply(0, f'no reply to the final dot: {error}')
            )
        elif self._ended_over_recipients(Reply(0, str(error))):
            return
        elif self.answered < len(self.commands):
            # RFC 5321, 3.8: a lost connection is as good as a 451.
            verb = self.commands[self.answered].partition(b' ')[0].strip().decode()
            self.fail(RelayGoneError(f'{verb}: {error}'))
        else:
            self.fail(error)

    def fail(self, error: Exception) -> Step:
        """End without an answer."""
        if not self.done.done():
            self.done.set_exception(error)
        return Step.CLOSE

    def resolve(self, answers: Answers) -> None:
        """End with an answer."""
        if not self.done.done():
            self.done.set_result(answers)

    def _answer_accepted(self, outcome: Outcome, reply: Reply) -> None:
        answers, accepted = self._answers.copy(), self._accepted()
        if len(accepted) > 1 and outcome is not Outcome.ACCEPTED and says_too_many(reply):
            # It counts them only now, and gives no number.
            outcome, self.room = Outcome.RELEASED, len(accepted) // 2
        for recipient in accepted:
            answers[recipient] = (outcome, reply)
        self.resolve(answers)

    def _accepted(self) -> list[str]:
        return [
            recipient
            for recipient, (outcome, _) in self._answers.items()
            if outcome is Outcome.ACCEPTED
        ]
