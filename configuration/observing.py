"""Where faults of the program and traces go."""

from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from configuration.variables import Variables
from configuration.version import program_version
from logs import hide_addresses
from process.observing import open_tracer, start_sentry

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


class ObservingVariables(Variables):
    """Faults and traces: sent nowhere without these."""

    sentry_dsn: SecretStr | None = Field(
        default=None,
        description='Faults of the program go to this Sentry project, without addresses; needs the '
        'package sentry-sdk.',
    )
    otel_exporter_otlp_endpoint: str | None = Field(
        default=None,
        description='Traces go there by OTLP over HTTP: http://127.0.0.1:4318; needs the package '
        'opentelemetry-exporter-otlp-proto-http. Other OTEL_* variables of the environment count.',
    )

    @field_validator('sentry_dsn')
    @classmethod
    def _check_sentry_dsn(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _need('sentry_sdk', 'sentry-sdk')
            from sentry_sdk.utils import Dsn  # noqa: PLC0415 - few want it

            try:
                Dsn(value.get_secret_value())
            except ValueError:  # it says the DSN
                what = 'must be https:// with a key and a project: https://KEY@host/42'
                raise ValueError(what) from None
        return value

    @field_validator('otel_exporter_otlp_endpoint')
    @classmethod
    def _check_otel_endpoint(cls, value: str | None) -> str | None:
        if value is not None:
            _check_http_url(value)
            _need('opentelemetry.exporter.otlp', 'opentelemetry-exporter-otlp-proto-http')
        return value

    def start_observing(self, service: str, instance: str) -> 'Tracer | None':
        """Begin to report faults, and return the tracer where traces are wanted.

        Called once, when the logs are configured.
        """
        if self.sentry_dsn is not None:
            dsn = self.sentry_dsn.get_secret_value()
            start_sentry(dsn, f'email-worker@{program_version()}', instance, hide_addresses)
        endpoint = self.otel_exporter_otlp_endpoint
        return None if endpoint is None else open_tracer(endpoint, service, instance)


def _check_http_url(value: str) -> None:
    try:
        parts = urlsplit(value)
        is_one = parts.scheme in ('http', 'https') and parts.hostname and parts.port != 0
    except ValueError:  # of the port, or of brackets
        is_one = False
    if not is_one:
        raise ValueError('must be http:// or https:// with a host: http://127.0.0.1:4318')


def _need(module: str, package: str) -> None:
    """Refuse a setting whose package is not installed."""
    try:
        found = find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ValueError(
            f'needs the package {package}, which is not installed: pip install {package} '
            '(the dependency group `observing`)'
        )
