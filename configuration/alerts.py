"""Whom to tell when a service goes down."""

from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from configuration.variables import Variables
from mail_outbox.envelope import InvalidEmailError, parse_recipients


class AlertVariables(Variables):
    """Alerts: nobody is told without one of these."""

    alert_emails: str | None = Field(
        default=None,
        max_length=4000,
        description='Addresses with commas between them; by the first relay that is up.',
    )
    alert_webhook_url: SecretStr | None = Field(
        default=None, description='http:// or https://; gets a POST of JSON.'
    )
    alert_apprise_urls: SecretStr | None = Field(
        default=None,
        description='Targets of Apprise, with spaces between them; needs the package apprise.',
    )
    alert_remind_s: float = Field(
        default=3600, ge=60, description='What is still down is told again after so long.'
    )

    @field_validator('alert_emails')
    @classmethod
    def _check_alert_emails(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parse_recipients(value)
            except InvalidEmailError as error:
                raise ValueError(str(error).removeprefix('recipient: ')) from error
        return value

    @field_validator('alert_webhook_url')
    @classmethod
    def _check_alert_webhook_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parts = urlsplit(value.get_secret_value())
            if parts.scheme not in ('http', 'https') or not parts.hostname:
                raise ValueError('must be http:// or https:// and a host')
        return value

    @property
    def alert_values(self) -> tuple[str | None, str | None, str | None, float]:
        """What delivery.alerts.assemble.AlertRules is made of, secrets plain."""
        webhook, targets = self.alert_webhook_url, self.alert_apprise_urls
        return (
            self.alert_emails,
            None if webhook is None else webhook.get_secret_value(),
            None if targets is None else targets.get_secret_value(),
            self.alert_remind_s,
        )
