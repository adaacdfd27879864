"""What the API answers about webhooks, for /openapi.json."""

from pydantic import BaseModel, Field


class WebhookSaid(BaseModel):
    """Where events go, and which."""

    id: int
    url: str
    description: str | None
    event_types: list[str] | None = Field(description='null: all of them')
    organization_id: str | None
    enabled: bool
    disabled_reason: str | None
    created_at: str
    created_by: str


class Webhook(WebhookSaid):
    """A webhook, and how its deliveries go."""

    failures: int = Field(description='In a row.')
    failing_since: str | None
    cool_until: str | None = Field(description='Nothing is posted before.')
    last_error: str | None
    last_delivered_at: str | None
    previous_secret_until: str | None = Field(description='Until then the one before signs too.')
    waiting: int = Field(description='Deliveries that wait; counted up to 10000.')
    oldest_waiting_at: str | None


class Webhooks(BaseModel):
    """All that who asks may see."""

    webhooks: list[Webhook]


class WebhookId(BaseModel):
    """Which one was changed."""

    id: int


class WebhookSecret(WebhookId):
    """A secret, which nobody can read a second time."""

    secret: str


class WebhookCreated(WebhookSecret):
    """A new webhook."""

    event_types: list[str] | None


class WebhookTested(BaseModel):
    """The delivery that a worker makes."""

    delivery_id: int


class WebhookReplayed(BaseModel):
    """How many deliveries are made again."""

    replayed: int


class WebhookEventSaid(BaseModel):
    """What happened, and for which webhook."""

    id: int
    webhook_id: int
    message_id: str = Field(description='In the header webhook-id, as msg_ and its hex digits.')
    email_id: int | None = Field(description='null: a test')
    event_type: str


class WebhookDelivery(WebhookEventSaid):
    """What became of one event."""

    status: str = Field(description='waiting, delivered or dead')
    occurred_at: str
    next_retry_at: str | None
    attempts: int
    last_attempt_at: str | None
    ended_at: str | None
    http_status: int | None
    answer: str | None
    error: str | None
    duration_ms: int | None
    is_being_sent: bool


class WebhookDeliveries(BaseModel):
    """A page of deliveries, the newest first."""

    deliveries: list[WebhookDelivery]
    next_cursor: str | None
