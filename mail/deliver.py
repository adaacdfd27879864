"""One e-mail to one relay, and to the next if the first cannot take it."""

from mail.outcome import Delivery, Outcome, Phase, Settled
from mail.priority import HIGH
from mail.progress import Progress
from mail.relay_attempt import RelayAttempt
from mail.route import Relays
from mail.settled import joined, open_recipients
from mail_outbox.rendered import Rendered


async def deliver(
    relays: Relays, rendered: Rendered, settled: Settled, progress: Progress
) -> Delivery:
    """Hand a message to the first relay that takes it.

    A relay that defers, cannot be reached, sends us away or takes no such message is followed by
    the next healthy one; a refusal for good or an unknown outcome is not, because another relay
    would only repeat it.

    Args:
        settled: Outcomes of recipients from earlier attempts; they get no second copy.
    Returns:
        The outcome for the e-mail as a whole; RELEASED with a waiting time when no relay could be
        asked at all.
    """
    # By route, and by what the transactions need: not every relay can take all of them.
    recipients = open_recipients(rendered.envelope.recipients, settled)
    (along, first), *others = [
        (along, part)
        for along, those in relays.split(progress.traits, recipients)
        for part in rendered.alike(those)
    ]
    delivery = await _deliver_admitted(along, rendered, first, settled, progress)
    for along, part in others:
        if delivery.outcome is Outcome.UNCERTAIN:
            break
        progress.recipients = known = delivery.recipients or settled
        more = await _deliver_admitted(along, rendered, part, known, progress)
        delivery = joined(delivery, more)
    return delivery


async def _deliver_admitted(
    relays: Relays,
    rendered: Rendered,
    recipients: tuple[str, ...],
    settled: Settled,
    progress: Progress,
) -> Delivery:
    """Deliver to those whose domains take mail now, and give back what is for the others."""
    may_wait = progress.urgent or progress.priority == HIGH
    if not may_wait and (wait_s := relays.comes_back_in_s()):
        return _given_back(settled, 'its relays take no more just now', wait_s)
    admission = relays.domains.admit(recipients, is_suspect=progress.urgent)
    if not admission.later:
        try:
            return await _deliver(relays, rendered, recipients, settled, progress)
        finally:
            relays.domains.done(admission)
    waits = _given_back(settled, admission.reason, admission.wait_s)
    if not admission.now:
        relays.domains.done(admission)
        return waits
    try:
        delivery = await _deliver(relays, rendered, admission.now, settled, progress)
    finally:
        relays.domains.done(admission)
    return joined(waits._replace(recipients=None), delivery)


def _given_back(settled: Settled, reason: str, wait_s: float) -> Delivery:
    return Delivery(
        Outcome.RELEASED,
        Phase.CONNECT,
        error=reason,
        recipients=settled or None,
        retry_in_s=wait_s,
        throttled=True,
    )


async def _deliver(
    relays: Relays,
    rendered: Rendered,
    recipients: tuple[str, ...],
    settled: Settled,
    progress: Progress,
) -> Delivery:
    """Deliver to recipients whose transactions need the same of a relay."""
    attempt = RelayAttempt(relays, rendered, recipients, settled, progress)
    if progress.recipients:
        await attempt.go_on()
    for relay in relays.in_turn():
        if attempt.failures and relay.is_behind:
            continue  # an e-mail that one relay has answered does not wait for another
        if attempt.failures:
            await attempt.go_on()
        progress.relay = relay.name
        delivery = await attempt.on(relay)
        if delivery.outcome not in (Outcome.DEFERRED, Outcome.RELEASED):
            return delivery
        if progress.cut_off:
            break
    if all(relay in attempt.unfit for relay in relays):
        return attempt.reject_unfit()
    return attempt.conclude(relays.unavailable_for_s())
