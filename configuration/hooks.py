"""Providers that call the web server when mail comes back."""

import importlib.util
from typing import Annotated, Any, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from configuration.variables import Variables


class HookVariables(Variables):
    """Webhooks of providers: `POST /hooks/NAME` at `python -m web`, each off without its key."""

    postmark_webhook_secret: SecretStr | None = Field(
        default=None,
        min_length=16,
        description='Password of HTTP Basic, or X-Webhook-Secret, with which Postmark calls.',
    )
    mailgun_webhook_key: SecretStr | None = Field(
        default=None, min_length=16, description="Mailgun's HTTP webhook signing key."
    )
    sendgrid_webhook_key: str | None = Field(
        default=None,
        description="SendGrid's verification key (public), as its page shows it; needs the "
        'package cryptography.',
    )
    brevo_webhook_secret: SecretStr | None = Field(
        default=None, min_length=16, description='Bearer token with which Brevo calls.'
    )
    ses_topic_arns: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description='SNS topics whose notifications of Amazon SES are taken, and whose '
        'subscriptions are confirmed; comma separated. Needs the package cryptography.',
    )

    @field_validator('ses_topic_arns', mode='before')
    @classmethod
    def _split_arns(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(',') if part.strip())
        return value

    @model_validator(mode='after')
    def _check_cryptography(self) -> Self:
        wants = self.ses_topic_arns or self.sendgrid_webhook_key
        if wants and importlib.util.find_spec('cryptography') is None:
            raise ValueError(
                'SES_TOPIC_ARNS and SENDGRID_WEBHOOK_KEY need the package cryptography: '
                'pip install cryptography'
            )
        return self
