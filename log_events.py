"""The names of our log events: object, dot, what happened to it. Every log call uses one of these.

docs/logs.md is written from this table (`python -m dev.logs_document`); a test compares both with
the calls.
"""

from typing import NamedTuple

from server_events import SERVER_EVENTS


class LogEvent(NamedTuple):
    """What one name in the log means."""

    level: str  # the severest first, where there are two
    when: str
    fields: str = ''  # besides those of the context
    remedy: str = ''  # what to do; empty when there is nothing to do


ATTEMPT_FIELDS = 'status relay phase code error retry_in_s dead_reason message_id duration_ms'

LOG_EVENTS = {
    # E-mails
    'email.sent': LogEvent('info', 'A relay took the e-mail.', ATTEMPT_FIELDS),
    'email.deferred': LogEvent(
        'warning',
        'An attempt failed for now; `retry_in_s` says when the next one is.',
        ATTEMPT_FIELDS,
        'Nothing for one e-mail; for many, `python -m ops status` and the relay.',
    ),
    'email.rejected': LogEvent(
        'warning',
        'An attempt failed for good: a 5xx reply, or an e-mail that cannot be rendered.',
        ATTEMPT_FIELDS,
        '`python -m ops explain ID`',
    ),
    'email.uncertain': LogEvent(
        'warning',
        'The relay never replied to the final dot: nobody knows whether it has the e-mail.',
        ATTEMPT_FIELDS,
        'With the policy `hold`: `python -m ops resolve ID`.',
    ),
    'email.released': LogEvent(
        'info', 'The claim ended without an attempt that counts, as at a stop.', ATTEMPT_FIELDS
    ),
    'email.not_claimable': LogEvent(
        'info',
        'A job found nothing to send: held elsewhere, sent, not due, or gone.',
        'state reason',
    ),
    'recipients.not_recorded': LogEvent(
        'warning', 'PostgreSQL did not take in time who has the e-mail already.', 'error'
    ),
    # Attempts and claims
    'attempt.not_recorded': LogEvent(
        'error',
        'What became of an attempt is not in `email_attempts`.',
        'error',
        'Read the traceback; `python -m ops show ID`.',
    ),
    'attempt.crashed': LogEvent(
        'error',
        'A fault of this program; the e-mail is tried again like after any other failure.',
        'phase',
        'Report it with its traceback.',
    ),
    'result.lost': LogEvent(
        'error',
        'The worker had to stop before PostgreSQL took the result; the e-mail becomes uncertain.',
        'outcome',
        '`python -m ops show ID`',
    ),
    'lease.lost': LogEvent(
        'warning',
        'The e-mail was taken back or over while this worker had it; its row is left alone.',
        'reason',
        'Several: look for `loop.blocked` and `lease.not_renewed`.',
    ),
    'lease.rescued': LogEvent(
        'warning',
        'A lease ran out, and this worker made the e-mail available again.',
        'lost_worker status',
        'See how `lost_worker` ended.',
    ),
    'lease.not_renewed': LogEvent(
        'warning',
        'The beat that renews leases did not reach PostgreSQL.',
        'held error',
        'Look after PostgreSQL: leases run out after 25 s.',
    ),
    # Rows that PostgreSQL refuses
    'row.refused': LogEvent(
        'warning',
        'A row refuses a change, by a CHECK, a trigger or the like; it stays as it is.',
        'reason',
        'Correct the row, or the rule.',
    ),
    'row.set_aside': LogEvent(
        'error',
        'This worker leaves a row alone from now on, since nothing can be written to it.',
        'reason detail also',
        'Correct the row, or the rule, and restart the workers.',
    ),
    'row.given_up': LogEvent(
        'error',
        'A row that cannot be worked on has become dead or uncertain.',
        'reason dead_reason',
        'Correct the row, then `python -m ops retry ID`.',
    ),
    # Jobs and sweeps
    'job.refused': LogEvent(
        'warning',
        'A job `send_email` came with something that is no id.',
        'argument',
        'Correct the producer: it enqueues the id of the row, a positive integer.',
    ),
    'job.foreign': LogEvent(
        'warning',
        'The e-mail of a job is not here; another application uses the same Redis database.',
        'workers remedy',
        'See `remedy`.',
    ),
    'job.dropped': LogEvent(
        'error',
        'What is no job was removed from the queue.',
        'raw_id reason',
        'Find who writes it.',
    ),
    'job.not_finished': LogEvent(
        'warning', 'Redis did not take the end of a job; the job runs again.', 'error'
    ),
    'job.not_enqueued': LogEvent(
        'warning',
        'In an application: Redis did not take the job; PostgreSQL is asked to notify the workers.',
        'error',
        'Look after Redis.',
    ),
    'wakeup.failed': LogEvent(
        'warning', 'Nothing will wake a worker for the e-mail; the next sweep finds it.', 'error'
    ),
    'sweep.done': LogEvent('info', 'A sweep found e-mails that were due.', 'affected outcomes'),
    'templates.unavailable': LogEvent(
        'error',
        'The process that renders templates cannot be started or does not reply; the e-mails wait.',
        'error emails',
        'See `error`: memory, processes, files.',
    ),
    # PostgreSQL
    'postgresql.unreachable': LogEvent(
        'error, warning',
        'PostgreSQL does not answer; `during` says what waits.',
        'during error place duty outcome',
        'Look after PostgreSQL; all goes on by itself.',
    ),
    'postgresql.time_limit': LogEvent(
        'warning',
        'A statement ran into its time limit; it is tried again.',
        'during error duty outcome',
        'See DB_COMMAND_TIMEOUT_S, and what else loads PostgreSQL.',
    ),
    'postgresql.refused': LogEvent(
        'error',
        'PostgreSQL refuses what waiting does not heal: a password, a right, a schema.',
        'during error duty outcome',
        'See `error`, which ends with the remedy.',
    ),
    'postgresql.pooler_found': LogEvent(
        'info, debug', 'PostgreSQL is behind a pooler.', 'place detail'
    ),
    'postgresql.notify_unavailable': LogEvent(
        'warning',
        'A pooler passes no NOTIFY on; workers look for urgent mail every few seconds instead.',
        'detail remedy',
        'See `remedy`.',
    ),
    'postgresql.listener_failed': LogEvent(
        'warning', 'The session that listens for NOTIFY cannot be opened; tried again.', 'error'
    ),
    'postgresql.listener_ended': LogEvent('warning', 'The session that hears NOTIFY ended.'),
    # Redis
    'redis.unreachable': LogEvent(
        'error',
        'Redis does not answer: the worker sweeps PostgreSQL every second.',
        'error',
        'Look after Redis; no mail is lost.',
    ),
    'redis.reconnected': LogEvent('info', 'Redis answers again.'),
    'redis.emptied': LogEvent(
        'error',
        'The keys of Redis are gone (restart, FLUSHALL, eviction); what is due is swept.',
        '',
        'See deploy/redis.conf: `noeviction`, and a database of its own.',
    ),
    'redis.slow': LogEvent('warning', 'Redis was slow; what is due is swept.', 'took_s'),
    'redis.shared': LogEvent(
        'error', 'Another application uses this Redis database.', 'workers remedy', 'See `remedy`.'
    ),
    'redis.keyspace_events_off': LogEvent(
        'info',
        'Redis does not report new jobs; they are asked for.',
        'detail remedy',
        'See `remedy`.',
    ),
    'redis.keyspace_events_lost': LogEvent(
        'debug', 'The connection on which Redis reports new jobs was lost; tried again.', 'error'
    ),
    'queue.not_served': LogEvent(
        'error',
        'Jobs are routed to a queue that no worker polls; their mail waits for sweeps.',
        'queue remedy',
        'See `remedy`.',
    ),
    # Workers
    'worker.started': LogEvent('info', 'The worker polls its queue.', 'queue functions'),
    'worker.stopped': LogEvent('info', 'The worker has ended in order.', 'outcomes'),
    'worker.recycling': LogEvent(
        'info', 'The worker has done enough or is too large, and drains.', 'done rss_bytes'
    ),
    'worker.not_registered': LogEvent(
        'debug',
        'Its record is not in Redis: `ops status` does not show the worker, or the ingress.',
        'error',
    ),
    'worker.health_key_not_deleted': LogEvent(
        'warning', 'Redis did not answer when the worker stopped; the key expires.', 'error'
    ),
    'recycling.limit_ignored': LogEvent(
        'error',
        'WORKER_RECYCLE_RSS_MIB is so low that each new worker would end at once.',
        'limit_mib fresh_mib detail remedy',
        'See `remedy`.',
    ),
    'loop.blocked': LogEvent(
        'error',
        'Something holds the event loop: nothing is sent and no lease renewed.',
        'holds at email_ids where code',
        'Read `code`; `python -m ops show ID` for `email_ids`.',
    ),
    'loop.resumed': LogEvent(
        'warning', 'The event loop goes on after a `loop.blocked`.', 'held_s at email_ids where'
    ),
    'task.restarted': LogEvent('error', 'A background task failed.', '', 'Report it.'),
    'systemd.not_notified': LogEvent('warning', 'systemd is not reached.', 'states error'),
    'health_file.not_written': LogEvent(
        'error',
        'HEALTH_FILE cannot be written: health checks take this process for dead.',
        'file error',
        'Let it be in a directory that this process may write: a tmpfs at /tmp in a container.',
    ),
    'log.lines_dropped': LogEvent(
        'warning',
        'Lines are missing here: nobody read standard error in time.',
        'lines reason',
        'Look after who reads the log.',
    ),
    # Operators
    'command.obeyed': LogEvent('info', 'The worker did what a command said.', 'command arguments'),
    'command.refused': LogEvent('warning', 'A command is unknown, or wrong.', 'command reason'),
    'command.failed': LogEvent('error', 'A command failed.', 'command', 'Report it.'),
    'command.foreign': LogEvent('debug', 'A command is for another application.', 'command'),
    'command.channel_lost': LogEvent('debug', 'The channel is gone; tried again.', 'error'),
    'switches.changed': LogEvent(
        'info', 'An operator paused or resumed something.', 'paused relays email_types duties'
    ),
    'relays.reloaded': LogEvent('info', 'Relays and routes were read again.', 'relays changed'),
    'switches.not_read': LogEvent('debug', 'Pauses could not be read; those known stay.', 'error'),
    # Duties
    'duty.skipped': LogEvent('info', 'A duty was due and not run.', 'duty slot reason'),
    'duty.failed': LogEvent('error', 'A duty failed.', 'duty slot', 'Read the traceback.'),
    'history.not_counted': LogEvent('warning', 'A count waits.', 'reason', 'Look for locks, load.'),
    'duty.slot_not_renewed': LogEvent(
        'warning', 'A running duty was not renewed; it may run twice.', 'duty error'
    ),
    'service.down': LogEvent(
        'error',
        'check_service_health found a service that does not answer as it should.',
        'service error',
        'Look after the service; `python -m ops doctor`.',
    ),
    'alert.sent': LogEvent('warning', 'Somebody was told of a service.', 'channel subject kind'),
    'alert.failed': LogEvent('error', 'An alert went nowhere.', 'channel error', 'See ALERT_*.'),
    'cleanup.reported': LogEvent(
        'warning',
        'A first cleanup only counts: the next one deletes as many rows.',
        'table rows',
        'If that is too much: EMAIL_RETENTION_DAYS, CLEANUP_SESSION_TABLES.',
    ),
    'cleanup.refused': LogEvent(
        'warning',
        'Other tables refer to e-mails that are past the retention; they stay.',
        'emails reason',
        'See `reason`.',
    ),
    'cleanup.skipped': LogEvent('warning', 'A table was left alone.', 'table reason'),
    'content.not_deleted': LogEvent(
        'warning', 'A later run, or the end of retention, deletes content that should go.', 'error'
    ),
} | {name: LogEvent(*event) for name, event in SERVER_EVENTS.items()}
