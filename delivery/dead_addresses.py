"""Addresses that a relay refuses as unknown: they get no more mail, without being asked again."""

import re
from collections.abc import Iterator, Sequence

import asyncpg
import structlog

from db.claimed import Claim
from db.errors import DATABASE_DOWN
from db.feedback_suppression import FeedbackRules, suppress_dead
from db.results import Result
from mail.bounce.codes import DEAD_ADDRESS_CODES
from mail.outcome import Delivery, Outcome, Phase
from mail_outbox.address_fields import read_address_fields
from mail_outbox.envelope import InvalidEmailError

log = structlog.get_logger()

# RFC 5321, 4.2.3: about a mailbox. The reply as it stands in recipient_outcomes.
REFUSAL = re.compile(r'55[0-9] (5\.\d{1,3}\.\d{1,3})(?=\s|$)')
MOST_TRUST, FIRST_TRUST = 20, 5


class DeadAddresses:
    """Puts them on the list of those who get no mail.

    A relay that was set up wrongly refuses everybody with such codes, so what it refuses counts
    only as long as it accepts as much.
    """

    def __init__(self, pool: asyncpg.Pool, rules: FeedbackRules) -> None:
        self._pool = pool
        self._days = rules.bounce_days
        self._trust = FIRST_TRUST

    async def note(self, ended: Sequence[Result]) -> None:
        """Take note of attempts that were recorded; what cannot be stored is told in the log."""
        if not self._days:
            return
        dead: dict[str, str] = {}
        for claim, delivery, *_ in ended:
            if delivery.outcome is Outcome.ACCEPTED:
                self._trust = min(MOST_TRUST, self._trust + 1)
                if not delivery.recipients:  # nearly always
                    continue
            for address, reply in _refused(claim, delivery):
                self._trust = max(-MOST_TRUST, self._trust - 1)
                if self._trust >= 0:
                    dead[address] = reply
        if dead:
            try:
                await suppress_dead(self._pool, dead, self._days)
            except (*DATABASE_DOWN, asyncpg.PostgresError) as error:
                log.warning('recipients.not_suppressed', addresses=len(dead), error=str(error))


def _refused(claim: Claim, delivery: Delivery) -> Iterator[tuple[str, str]]:
    """Yield who was refused as unknown in this attempt, with the relay's reply."""
    if delivery.recipients:
        for address, (outcome, reply) in delivery.recipients.items():
            is_new = claim.settled.get(address) != (outcome, reply)
            if outcome is Outcome.REJECTED and is_new and _is_dead(reply):
                yield address, reply
    elif (
        delivery.outcome is Outcome.REJECTED
        and delivery.phase is Phase.RCPT
        and delivery.reply is not None
        and claim.is_whole
        and _is_dead(str(delivery.reply))
    ):
        try:
            recipients = read_address_fields(claim.email).envelope('').recipients
        except InvalidEmailError:
            return
        if len(recipients) == 1:
            yield recipients[0], str(delivery.reply)


def _is_dead(reply: str) -> bool:
    found = REFUSAL.match(reply)
    return found is not None and found[1] in DEAD_ADDRESS_CODES
