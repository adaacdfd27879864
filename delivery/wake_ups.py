"""Jobs that this worker leaves in Redis for an e-mail that is due later."""

from datetime import UTC, datetime, timedelta

import structlog
from arq.connections import ArqRedis
from redis.exceptions import RedisError

from engine.signals import WorkerSignals

log = structlog.get_logger()

# Jobs for what comes later (`infinity` is a time, too) would only lie in Redis.
LATEST_WAKE_UP_S = 30 * 86400.0
# By Redis's clock, and never before the database's agrees that it is due.
MARGIN_S = 0.05


class WakeUps:
    """Only wake-ups: without them, the next sweep finds the row."""

    def __init__(self, redis: ArqRedis, queue_name: str, signals: WorkerSignals) -> None:
        self._redis = redis
        self._queue_name = queue_name
        self._signals = signals

    async def send_later(self, email_id: int, in_s: float, job_key: str) -> None:
        """Have arq wake a worker when the e-mail is due.

        Args:
            job_key: What one wake-up differs by from others for the same e-mail.
        """
        if in_s > LATEST_WAKE_UP_S:
            return
        try:
            await self._redis.enqueue_job(
                'send_email',
                email_id,
                _job_id=f'send_email:{email_id}:{job_key}',
                _queue_name=self._queue_name,
                _defer_until=datetime.now(UTC)
                + timedelta(seconds=in_s + MARGIN_S + self._signals.redis_ahead_s),
            )
        except (RedisError, OSError) as error:
            log.warning('wakeup.failed', email_id=email_id, error=str(error))
