"""What is done with e-mails, and how long what was done is kept."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode

from configuration.lists import named_once
from configuration.variables import Variables
from mail.outcome import Policy
from mail_outbox.envelope import MAX_MESSAGE_BYTES

RetentionDays = Annotated[int, Field(ge=1, le=36500)]
IDENTIFIER = re.compile(r'[^\W\d][\w$]*')
# What the duties clean anyway, or must not: by the time in expires_at every e-mail would go.
OWN_TABLES = frozenset({
    'email_template_versions', 'email_template_contents',
    'outbound_emails', 'mail_outbox', 'email_attempts', 'email_templates', 'email_suppressions',
    'email_type_suppressions',
    'mail_switches', 'cron_runs', 'service_health', 'mail_service_health', 'outbox_adoption',
    'table_origins', '_pogo_migration', 'mail_api_tokens', 'mail_audit', 'mail_api_requests',
    'email_feedback', 'mail_webhooks', 'mail_webhook_deliveries',
})  # fmt: skip


class EmailVariables(Variables):
    """E-mail policy and retention."""

    email_max_attempts: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description='Attempts of e-mails that do not say, also as the column default, '
        'by db.migrate. Without it: as many as fit before expires_at, or into '
        'EMAIL_EXPIRY_HOURS. `ops schedule` prints the times.',
    )
    email_retry_base_delay_s: float = Field(
        default=60,
        gt=0,
        validation_alias='EMAIL_RETRY_BASE_DELAY',
        description='Seconds before the second attempt; doubled each time.',
    )
    email_retry_max_delay_s: float = Field(
        default=3600,
        gt=0,
        validation_alias='EMAIL_RETRY_MAX_DELAY',
        description='Seconds between two attempts at most.',
    )
    email_expiry_hours: float = Field(
        default=24,
        gt=0,
        le=87600,
        description='What an expired e-mail gets when it is retried; queue_email gives new ones '
        '24. Rows without expires_at do not expire, but are tried no longer than this.',
    )
    email_hold_types: Annotated[frozenset[str], NoDecode] = Field(
        default=frozenset(),
        description='email_types whose uncertain attempts wait for an operator, comma separated.',
    )
    adoption_hold_after_hours: float = Field(
        default=24,
        gt=0,
        le=87600,
        description='E-mails of an adopted table that were due longer ago when it was taken over '
        'are held, not sent.',
    )
    email_max_bytes: int = Field(
        default=MAX_MESSAGE_BYTES, ge=1024, description='A whole message, encoded.'
    )
    email_retention_days: int = Field(
        default=90,
        ge=1,
        le=36500,
        description='Finished e-mails are deleted after this; from a table that was there before '
        'only if it is set.',
    )
    email_retention_days_by_type: Annotated[Mapping[str, RetentionDays], NoDecode] = Field(
        default={},
        description='The same for some types: newsletter=7,invoice=3650.',
    )
    email_drop_content: Annotated[frozenset[str], NoDecode] = Field(
        default=frozenset(),
        description='email_types, comma separated, or * for all: bodies, template data and '
        'attachments are deleted as soon as the e-mail is sent.',
    )
    session_retention_days: int = Field(
        default=90, ge=1, le=36500, description='Sessions and refresh tokens older than this go.'
    )
    cleanup_session_tables: Annotated[frozenset[str], NoDecode] = Field(
        default=frozenset(),
        description="The application's own tables that SESSION_RETENTION_DAYS is for, such as "
        'sessions,refresh_tokens.',
    )

    @field_validator('email_retention_days_by_type', mode='before')
    @classmethod
    def _read_days(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        parts = (part.partition('=') for part in value.split(',') if part.strip())
        return named_once(parts, 'types with their days: newsletter=7,invoice=3650')

    @field_validator(
        'email_hold_types', 'email_drop_content', 'cleanup_session_tables', mode='before'
    )
    @classmethod
    def _split_types(cls, value: Any) -> Any:
        return (
            [part.strip() for part in value.split(',') if part.strip()]
            if isinstance(value, str)
            else value
        )

    @field_validator('cleanup_session_tables')
    @classmethod
    def _check_tables(cls, value: frozenset[str]) -> frozenset[str]:
        for name in sorted(value):
            parts = name.split('.')
            if len(parts) > 2 or not all(
                IDENTIFIER.fullmatch(part) and len(part.encode()) < 64 for part in parts
            ):
                raise ValueError(
                    'must be names of tables as PostgreSQL spells them: sessions,app.refresh_tokens'
                )
            if parts[-1] in OWN_TABLES:
                raise ValueError(
                    f'{parts[-1]} is a table of this program, see EMAIL_RETENTION_DAYS'
                )
        return value

    @model_validator(mode='after')
    def _check_delays(self) -> Self:
        if self.email_retry_base_delay_s > self.email_retry_max_delay_s:
            raise ValueError('EMAIL_RETRY_BASE_DELAY must not be above EMAIL_RETRY_MAX_DELAY')
        return self

    @property
    def retry_policy(self) -> Policy:
        """How often and when e-mails are tried again."""
        return Policy(
            base_delay_s=self.email_retry_base_delay_s,
            max_delay_s=self.email_retry_max_delay_s,
            hold_types=self.email_hold_types,
            max_attempts=self.email_max_attempts,
            life_s=self.email_expiry_hours * 3600,
        )
