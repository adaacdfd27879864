"""Faults of the program to Sentry, and a tracer of OpenTelemetry; both only where they are wanted.

Neither holds anybody up: each sends from a thread of its own, out of a queue that drops what does
not fit while nobody answers.
"""

import logging
import os
import sys
from collections.abc import Callable, MutableMapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

ENDPOINT = 'OTEL_EXPORTER_OTLP_ENDPOINT'
# Of an event: what finds the e-mail, and nothing that it says.
TAGS = ('job_id', 'email_id', 'attempt', 'phase', 'duty')
Hide = Callable[[str | None], str | None]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def open_tracer(endpoint: str, service: str, instance: str) -> 'Tracer':
    """Return a tracer that exports by OTLP over HTTP, until the process ends.

    Args:
        endpoint: http:// or https://, without /v1/traces. All other OTEL_* variables mean what
            OpenTelemetry says.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - few want it
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    os.environ.setdefault(
        ENDPOINT, endpoint
    )  # it may come from .env, which the library does not read
    name = os.environ.get('OTEL_SERVICE_NAME', service)
    resource = Resource.create({'service.name': name, 'service.instance.id': instance})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer('email-worker')


def start_sentry(dsn: str, release: str, instance: str, hide: Hide) -> None:
    """Report what is logged with an exception as an error, and what nobody caught.

    No values of variables, no requests, no addresses: they are personal data, and secrets.
    """
    import sentry_sdk  # noqa: PLC0415 - few want it
    from sentry_sdk.integrations.atexit import AtexitIntegration  # noqa: PLC0415
    from sentry_sdk.integrations.excepthook import ExcepthookIntegration  # noqa: PLC0415
    from sentry_sdk.integrations.logging import LoggingIntegration  # noqa: PLC0415

    sentry_sdk.init(
        dsn=dsn,
        release=release,
        server_name=instance,
        send_default_pii=False,
        include_local_variables=False,
        max_request_body_size='never',
        max_breadcrumbs=0,
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[
            LoggingIntegration(level=None, event_level=logging.ERROR),
            ExcepthookIntegration(),
            AtexitIntegration(callback=lambda _pending, _timeout: None),
        ],
        before_send=lambda event, _: _without_addresses(event, hide),
    )
    # Behind what adds the context, and before exceptions become text.
    structlog.get_config()['processors'].insert(1, _report)


def _without_addresses(event: Any, hide: Hide) -> Any:
    for value in event.get('exception', {}).get('values', ()):
        value['value'] = hide(value.get('value'))
    entry = event.get('logentry') or {}
    for part in (event, entry):
        for name in ('message', 'formatted'):
            if isinstance(part.get(name), str):
                part[name] = hide(part[name])
    entry.pop('params', None)
    event.pop('extra', None)
    return event


def _report(_: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Report the exception of a line that is logged as an error."""
    import sentry_sdk  # noqa: PLC0415 - few want it

    error = _error_of(event.get('exc_info'))
    if error is not None and method in ('error', 'exception', 'critical'):
        with sentry_sdk.new_scope() as scope:
            scope.set_tag('event', str(event.get('event')))
            for name in TAGS:
                if name in event:
                    scope.set_tag(name, str(event[name]))
            scope.capture_exception(error)
    return event


def _error_of(exc_info: Any) -> BaseException | None:
    """Return the exception of a line: structlog takes it as one, as a tuple, or as True."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    elif exc_info is True:
        exc_info = sys.exc_info()[1]
    return exc_info if isinstance(exc_info, BaseException) else None
