"""The trace that an e-mail belongs to, so that its delivery is found from the request.

Source: W3C Trace Context. Nothing is loaded for it: an application that traces has loaded
opentelemetry itself.
"""

import re
import sys

TRACEPARENT = re.compile(r'00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}')


def known_traceparent(value: str | None) -> str | None:
    """Return a traceparent as it is; None for what is none, which is ignored (W3C, 3.2.2)."""
    return value if value and TRACEPARENT.fullmatch(value) else None


def current_traceparent() -> str | None:
    """Return the traceparent of the caller's span; None where nothing is traced."""
    trace = sys.modules.get('opentelemetry.trace')
    if trace is None:
        return None
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return None
    return f'00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}'
