"""One transaction to one relay, again where the relay had given its connection up."""

import time

from mail.outcome import Phase
from mail.progress import Progress
from mail.relay.errors import RelayDiedError, RelayError, RelayGoneError, RelayRefusedError
from mail.relay.pool import Relay
from mail.relay.transaction import Answers, Transaction
from mail_outbox.rendered import Rendered

# Of connections that end before an e-mail is begun on them: where no new one is to be had, the
# e-mail waits for another kept one.
TRIES = 5


async def carry(relay: Relay, rendered: Rendered, progress: Progress) -> tuple[Answers, int | None]:
    """Run one transaction; where the relay has given the connection up meanwhile, again on another.

    Returns:
        The answer for each recipient, and Transaction.room.
    Raises:
        RelayError: see Relay.transact; also when a new connection ended before MAIL was replied to.
    """
    until = time.monotonic() + relay.options.timeouts.command_s
    for tries_left in reversed(range(TRIES)):
        first = tries_left == TRIES - 1
        progress.phase = Phase.CONNECT
        transaction = Transaction(relay.name, rendered, progress)
        try:
            return await relay.transact(transaction, fresh=not first), transaction.room
        except (RelayGoneError, RelayRefusedError) as error:
            if progress.phase is not Phase.MAIL or (
                isinstance(error, RelayError) and error.is_throttling
            ):
                raise
            if transaction.fresh and isinstance(error, RelayGoneError):
                # As good as no connection: the other e-mails shall not find that out one by one.
                raise RelayDiedError(f'{relay.name}: {error}') from error
            # Closed, or 421, because it was idle or has carried enough: that says nothing about the
            # relay.
            if transaction.fresh or not (first or (tries_left and time.monotonic() < until)):
                raise
    raise AssertionError('the last try returns or raises')
