"""One group of recipients on one relay after the other: what was said, and what comes of it."""

import asyncio

from mail.domain_replies import is_about_domain
from mail.outcome import Delivery, Outcome, Phase, Reply, Settled
from mail.progress import Progress
from mail.relay.carry import carry
from mail.relay.errors import (
    RelayBehindError,
    RelayError,
    RelayGoneError,
    UnfitError,
)
from mail.relay.learned_rate import RETRY_BASE_S, is_throttling
from mail.relay.pool import Relay
from mail.relay.recipients import says_too_many
from mail.relay.transaction import Answers
from mail.route import Relays
from mail.route_table import domain_of
from mail.settled import FINAL
from mail_outbox.rendered import Rendered

# When to look again for the relay that takes a large message, while others are well.
LARGER_RELAY_RETRY_S = 30.0


class RelayAttempt:
    """The relays' answers so far."""

    def __init__(
        self,
        relays: Relays,
        rendered: Rendered,
        recipients: tuple[str, ...],
        settled: Settled,
        progress: Progress,
    ) -> None:
        self.relays = relays
        self.progress = progress
        self.rendered = rendered
        self.recipients = recipients
        self.settled = dict(settled)
        self.several = len(rendered.envelope.recipients) > 1 or bool(settled)
        self.failures: list[Delivery] = []
        self.unfit: dict[Relay, Reply] = {}  # what they would have said

    async def on(self, relay: Relay) -> Delivery:
        """Try it by one relay; what it said is kept for conclude."""
        progress = self.progress
        try:
            answers = await self._carry(relay)
        except RelayError as error:
            delivery = self._not_carried(relay, error)
        except UnfitError as error:
            self.unfit[relay] = error.reply
            delivery = Delivery(
                Outcome.RELEASED, progress.phase, relay.name, error.reply, f'{relay.name}: {error}'
            )
            self.failures.insert(0, delivery)  # whatever another relay says is the better answer
            return delivery
        except RelayGoneError as error:
            outcome = Outcome.RELEASED if progress.phase is Phase.CONNECT else Outcome.DEFERRED
            delivery = Delivery(outcome, progress.phase, relay.name, None, f'{relay.name}: {error}')
        else:
            self.relays.domains.answered(answers, progress.phase)
            delivery = self._sum_up(answers, relay.name, progress.phase)
            outcome = delivery.outcome
            if outcome is not Outcome.UNCERTAIN and progress.phase is not Phase.CONNECT:
                relay.recovered(accepted=outcome is Outcome.ACCEPTED)  # it did reply
            if outcome is Outcome.DEFERRED and all(map(_is_our_rate, answers, answers.values())):
                delivery = self._throttled(relay, delivery)
        if delivery.outcome in (Outcome.DEFERRED, Outcome.RELEASED):
            self.failures.append(delivery)
        return delivery

    async def _carry(self, relay: Relay) -> Answers:
        """Run one transaction, or as many as the relay needs for so many recipients.

        Raises:
            See mail.relay.carry.carry; what the transactions before it settled is noted.
        """
        left = self.recipients
        answers: Answers = {}
        # A limit that the next transaction confirms, and by whom.
        guess: tuple[int, frozenset[str]] | None = None
        while left:
            part = left[: 1 if self.rendered.own_heads else relay.recipients.most]
            said, room = await carry(relay, self.rendered.part(part), self.progress)
            over = {
                who: reply for who, (outcome, reply) in said.items() if outcome is Outcome.RELEASED
            }
            answers |= said | {who: (Outcome.DEFERRED, reply) for who, reply in over.items()}
            if guess and any(said[who][0] is Outcome.ACCEPTED for who in guess[1] & said.keys()):
                relay.recipients.learn(guess[0])
            guess = None
            if room is not None and (
                len(over) == len(said) or any(map(says_too_many, over.values()))
            ):
                relay.recipients.learn(room)
            elif room is not None:
                guess = (room, frozenset(over))
            left = (*over, *left[len(part) :])
            if not left or any(_ends_the_series(*answer) for answer in said.values()):
                break
            self._note(answers)
            await self.go_on()
        return answers

    async def go_on(self) -> None:
        """Stand between two transactions: nothing is on its way.

        Raises:
            CancelledError: this was the last; what is known so far is in progress.recipients.
        """
        self.progress.phase = Phase.CONNECT
        if self.progress.cut_off:
            raise asyncio.CancelledError
        if self.progress.recipients:
            await self.progress.keep(self.progress.recipients)

    def _note(self, answers: Answers) -> None:
        """Keep what is known of each recipient, for whoever goes on with this e-mail."""
        for recipient, (outcome, reply) in answers.items():
            self.settled[recipient] = (outcome, str(reply))
        self.progress.recipients = self.settled
        self.recipients = tuple(
            r for r in self.recipients if self.settled.get(r, (None,))[0] not in FINAL
        )

    def _not_carried(self, relay: Relay, error: RelayError) -> Delivery:
        phase = self.progress.phase
        outcome = Outcome.DEFERRED if error.counts else Outcome.RELEASED
        delivery = Delivery(outcome, phase, relay.name, error.reply, str(error))
        if isinstance(error, RelayBehindError):
            return delivery._replace(throttled=True)
        if error.is_throttling and phase is not Phase.CONNECT:
            return self._throttled(relay, delivery)
        relay.cool_down(str(error))
        return delivery

    def _throttled(self, relay: Relay, delivery: Delivery) -> Delivery:
        """Slow down: the relay wants fewer e-mails, and this one is not to blame."""
        assert delivery.reply is not None  # noqa: S101 - it said so
        retry_in_s = relay.rate.throttled(delivery.reply, self.rendered.envelope.recipients)
        if any(
            other.slot_in_s() < relay.slot_in_s()
            for other in self.relays.available()
            if other is not relay
        ):
            relay.send_away_waiting()
        return delivery._replace(outcome=Outcome.RELEASED, throttled=True, retry_in_s=retry_in_s)

    def _sum_up(self, answers: Answers, relay: str, phase: Phase) -> Delivery:
        """Join the answers into one: what is still open decides, then what was accepted."""
        if not self.several:
            ((outcome, reply),) = answers.values()
            error = None if outcome is Outcome.ACCEPTED else f'{relay}: {reply.text or reply}'
            return Delivery(outcome, phase, relay, reply if reply.code else None, error)
        self._note(answers)
        for outcome in (Outcome.UNCERTAIN, Outcome.DEFERRED, Outcome.ACCEPTED, Outcome.REJECTED):
            replies = [reply for o, reply in answers.values() if o is outcome]
            if replies:
                break
        if outcome is Outcome.REJECTED and any(
            o is Outcome.ACCEPTED for o, _ in self.settled.values()
        ):
            outcome = Outcome.ACCEPTED  # by an earlier attempt; who was refused is in `refused`
        refused = [
            f'{r}: {said}' for r, (o, said) in self.settled.items() if o is not Outcome.ACCEPTED
        ]
        reply = replies[0]
        return Delivery(
            outcome,
            phase,
            relay,
            reply if reply.code else None,
            '; '.join(refused)
            or (None if outcome is Outcome.ACCEPTED else f'{relay}: {reply.text or reply}'),
            self.settled,
        )

    def reject_unfit(self) -> Delivery:
        """Return the outcome when no relay takes such a message: rejected."""
        relay, reply = next(iter(self.unfit.items()))
        delivery = self._sum_up(
            dict.fromkeys(self.recipients, (Outcome.REJECTED, reply)), relay.name, Phase.CONNECT
        )
        return delivery._replace(error=self._said())

    def _said(self) -> str:
        return '; '.join(d.error for d in self.failures if d.error)

    def conclude(self, unavailable_for_s: float) -> Delivery:
        """Return the outcome when no relay took it: deferred if any counted, else released."""
        said = self._said()
        throttled = any(delivery.throttled for delivery in self.failures)
        for delivery in self.failures:
            if delivery.outcome is Outcome.DEFERRED:
                settled = self.settled if self.several else None
                return Delivery(
                    Outcome.DEFERRED, delivery.phase, delivery.relay, delivery.reply, said, settled
                )
        last = self.failures[-1] if self.failures else Delivery(Outcome.RELEASED, Phase.CONNECT)
        retry_in_s = (
            max(delivery.retry_in_s or 0.0 for delivery in self.failures) if self.failures else 0.0
        )
        retry_in_s = max(
            retry_in_s,
            LARGER_RELAY_RETRY_S if self.unfit else RETRY_BASE_S if throttled else 0.5,
        )
        return last._replace(
            outcome=Outcome.RELEASED,
            error=said or 'no relay is available',
            recipients=self.settled if self.several and self.failures else None,
            retry_in_s=max(unavailable_for_s, retry_in_s),
            throttled=throttled,
        )


def _is_our_rate(recipient: str, answer: tuple[Outcome, Reply]) -> bool:
    """Tell whether a recipient was not deferred, or only because of all that we send."""
    outcome, reply = answer
    return outcome is not Outcome.DEFERRED or (
        is_throttling(reply) and not is_about_domain(reply, domain_of(recipient))
    )


def _ends_the_series(outcome: Outcome, reply: Reply) -> bool:
    """Tell whether no transaction is to follow at once: the relay is gone, or wants fewer."""
    return outcome is Outcome.UNCERTAIN or (outcome is Outcome.DEFERRED and is_throttling(reply))
