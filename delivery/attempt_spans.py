"""Traces: each attempt is a span, below the one in which its e-mail was queued (OpenTelemetry)."""

import time
from typing import TYPE_CHECKING

from db.results import Result
from logs import hide_addresses
from mail.outcome import Outcome
from mail_outbox.traces import known_traceparent

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

NAME = 'send_email'
WORKED = (Outcome.ACCEPTED, Outcome.RELEASED)


class AttemptSpans:
    """Notes attempts when they are over, so that those who do not trace pay nothing."""

    def __init__(self, tracer: 'Tracer') -> None:
        from opentelemetry import trace  # noqa: PLC0415 - few have it
        from opentelemetry.trace.propagation import tracecontext  # noqa: PLC0415

        self._tracer = tracer
        self._trace = trace
        self._propagator = tracecontext.TraceContextTextMapPropagator()

    def note(self, result: Result) -> None:
        """Make a span of an attempt, from its claim to the relay's reply on record."""
        claim, delivery, decision = result.claim, result.delivery, result.decision
        parent = known_traceparent(claim.email.extras.traceparent)
        context = self._propagator.extract({'traceparent': parent}) if parent else None
        ended_ns = time.time_ns()
        span = self._tracer.start_span(
            NAME,
            context=context,
            kind=self._trace.SpanKind.CONSUMER,
            start_time=ended_ns - int(result.duration_s * 1e9),
        )
        if span.is_recording():
            reply = delivery.reply
            attributes = {
                'email.id': claim.email.id,
                'email.type': claim.email.email_type,
                'email.message_id': claim.email.message_id,
                'email.attempt': claim.attempt,
                'email.outcome': str(delivery.outcome),
                'email.status': str(decision.status),
                'email.relay': delivery.relay,
                'email.phase': str(delivery.phase),
                'smtp.code': reply.code if reply else None,
                'smtp.enhanced_code': reply.enhanced_code if reply else None,
                'smtp.reply': hide_addresses(reply.text) if reply else None,
            }
            span.set_attributes({k: v for k, v in attributes.items() if v is not None})
            if delivery.outcome not in WORKED:
                span.set_status(
                    self._trace.StatusCode.ERROR, hide_addresses(delivery.error) or None
                )
        span.end(ended_ns)
