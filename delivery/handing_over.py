"""The last steps before a relay: the safety switches, then the signature."""

import asyncio

from delivery.tunables import Tunables
from mail.deliver import deliver
from mail.outcome import Delivery, Settled
from mail.progress import Progress
from mail.safety import Safety, WithheldError, withheld
from mail.signing.dkim import HEAD_END
from mail_outbox.rendered import Rendered

# An RSA signature takes 0.3 ms, the hash of a body 5 ms a megabyte at worst (2026-11).
SIGN_IN_THREAD_BYTES = 256 * 1024
SIGN_IN_THREAD_HEADS = 4
READ_IN_THREAD_BYTES = 16 * 1024  # of a header


class HandingOver:
    """Hands messages to relays, with keys and relays as they are now: they may be exchanged."""

    def __init__(self, tunables: Tunables, safety: Safety) -> None:
        self._tunables = tunables
        self._safety = safety
        self._any_switch = bool(safety.names)

    async def deliver(self, rendered: Rendered, settled: Settled, progress: Progress) -> Delivery:
        """Ask the switches, sign, and deliver; never raises for what a relay does."""
        if self._any_switch:
            progress.classify = self._safety.classify
            try:
                rendered, settled = self._safety.narrow(rendered, settled)
            except WithheldError as error:
                return withheld(error, progress.phase)
        signed = await self.sign(rendered)
        return await deliver(self._tunables.relays, signed, settled, progress)

    async def sign(self, rendered: Rendered) -> Rendered:
        """Return the message with its DKIM signatures, made in a thread where others would wait."""
        signing = self._tunables.signing
        if signing is None:
            return rendered
        message = rendered.message
        if (
            len(message) > SIGN_IN_THREAD_BYTES
            or len(rendered.own_heads) > SIGN_IN_THREAD_HEADS
            or message.find(HEAD_END, 0, READ_IN_THREAD_BYTES) < 0
        ):
            return await asyncio.to_thread(signing.sign, rendered)
        return signing.sign(rendered)
