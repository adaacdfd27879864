"""In words: why an e-mail is not sent yet, when it will be, and what to do."""

import argparse
import asyncio
from dataclasses import asdict
from functools import partial
from typing import Any

import asyncpg
from arq.connections import ArqRedis
from rich.console import Console

from db import reports
from db.suppressions import suppressed
from db.switches import read_switches
from fleet.registry import WorkerRecord
from mail_outbox.envelope import InvalidEmailError, parse_recipients
from ops.answer import NOBODY_REPLIED, Answer, Document, Trouble, TroubleError
from ops.arguments import add_json, email_id
from ops.connect import Connections, attempt
from ops.live import ask_living, has_health_key
from ops.next_step import next_step, tries_again, where_now
from ops.obstacles import (
    Facts,
    Obstacle,
    obstacles,
    refused_jobs,
    refused_recipients,
    taken_back,
    why_dead,
)
from ops.output import cell, length, say
from ops.show import no_such_email

HELP = 'why an e-mail is not sent yet, when it will be, and what to do'

CHECK_IS_FRESH_S = 180.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument('id', type=email_id, metavar='ID')
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Read the row, then whatever could stand in its way; what does not answer is named and left out."""
    email = await connections.ask_postgres(
        partial(reports.read_email, email_id=options.id, with_content=False)
    )
    if email is None:
        raise TroubleError(await no_such_email(connections, options.id))
    troubles: list[Trouble] = []
    facts = await gather_facts(connections, email, troubles)
    attempts = await connections.ask_postgres(partial(reports.read_attempts, email_id=options.id))
    found = [*explain(email, facts), *refused_jobs(email, facts), *taken_back(attempts)]
    if facts.anybody_alive is False and (tries_again(email) or email['status'] == 'sending'):
        troubles.append(NOBODY_REPLIED)
    document: Document = {
        'id': email['id'],
        'status': email['status'],
        'next': next_step(email, has_worker=None),
        'due_at': (email['next_retry_at'] or email['read_at']) if tries_again(email) else None,
        'because': [asdict(obstacle) for obstacle in found],
        'now': where_now(email, facts.workers or ()) if email['status'] == 'sending' else None,
    }
    return Answer(document, troubles)


async def gather_facts(
    connections: Connections, email: dict[str, Any], troubles: list[Trouble]
) -> Facts:
    """Ask Redis for the workers, PostgreSQL for the rest, MongoDB only when there are attachments."""
    recipients: list[str] = []
    unreadable = None
    try:
        recipients = [recipient.address for recipient in parse_recipients(email['recipient'] or '')]
    except InvalidEmailError as error:
        unreadable = str(error).removeprefix('recipient: ')
    workers, stored, content = await asyncio.gather(
        attempt(connections.ask_redis(_read_alive), troubles),
        attempt(
            connections.ask_postgres(partial(_read_stored, email=email, recipients=recipients)),
            troubles,
        ),
        _read_content(connections, email['content_id'], troubles),
    )
    return Facts(
        workers=None if workers is None else workers[0],
        anybody_alive=None if workers is None else workers[1],
        recipients=recipients,
        unreadable=unreadable,
        content_missing=content == [],
        content_unknown=content is None and email['content_id'] is not None,
        **(stored or {}),
    )


async def _read_alive(redis: ArqRedis) -> tuple[list[WorkerRecord], bool]:
    workers = await ask_living(redis)
    return workers, bool(workers) or await has_health_key(redis)


async def _read_stored(
    pool: asyncpg.Pool, email: dict[str, Any], recipients: list[str]
) -> dict[str, Any]:
    template_id = email['template_id']
    template = (
        await reports.read_template(pool, template_id, with_content=False) if template_id else None
    )
    ahead = await reports.read_ahead(
        pool, email['priority'], email['next_retry_at'] or email['read_at']
    )
    services = await reports.read_services(pool)
    return {
        'switches': await read_switches(pool),
        'suppressed': await suppressed(pool, recipients),
        'template_missing': bool(template_id) and template is None,
        'ahead': ahead['ahead'],
        'last_minute': ahead['last_minute'],
        'services_down': {
            s['service']: s['error']
            for s in services
            if s['status'] != 'up' and s['checked_s'] < CHECK_IS_FRESH_S
        },
    }


async def _read_content(
    connections: Connections, content_id: str | None, troubles: list[Trouble]
) -> list[Document] | None:
    """Return the attachments; [] when they are gone, None when there are none to have or nobody knows."""
    if content_id is None:
        return None
    return await attempt(
        connections.ask_mongo(partial(reports.read_attachments, content_id=content_id)), troubles
    )


def explain(email: dict[str, Any], facts: Facts) -> list[Obstacle]:
    """Return the reasons why it is not sent."""
    if tries_again(email):
        return obstacles(email, facts)
    match email['status']:
        case 'sent':
            return list(refused_recipients(email))
        case 'failed':
            return [why_dead(email)]
        case 'sending' if facts.workers is not None and email['claimed_by'] not in {
            w.worker for w in facts.workers
        }:
            return [
                Obstacle(
                    f'{email["claimed_by"]} does not reply; when its lease ends, another worker takes over.'
                )
            ]
        case 'uncertain':
            commands = (
                f'`python -m ops resolve {email["id"]} --as sent`',
                f'`python -m ops retry {email["id"]}`',
            )
            remedy = f'{commands[0]} if it arrived, else {commands[1]}.'
            return [
                Obstacle(
                    f'Nobody knows whether it arrived: {email["last_error"] or "no reply came"}.',
                    remedy,
                )
            ]
        case 'held':
            due_at = email['next_retry_at'] or email['created_at']
            what = f'It was due at {cell(due_at)}, and is held since its table was taken over or an operator held it.'
            return [
                Obstacle(what, f'`python -m ops held release {email["id"]}`, or `held cancel`.')
            ]
        case 'external':
            return [
                Obstacle('It belongs to the system that was there before; workers leave it alone.')
            ]
        case _:
            return []


def render(document: Document, console: Console) -> None:
    """Print sentences."""
    say(console, f'E-mail {document["id"]} is {document["status"]}.', style='bold')
    say(console, cell(document['next']))
    if now := document['now']:
        since = f' for {length(now["since_s"])}' if now['since_s'] is not None else ''
        relay = f' to {now["relay"]}' if now['relay'] else ''
        say(
            console,
            f'{cell(now["worker"])} has been at it{since}: {cell(now["phase"])}{cell(relay)}.',
        )
    for reason in document['because']:
        remedy = f' {cell(reason["remedy"])}' if reason['remedy'] else ''
        say(console, f'- {cell(reason["what"])}{remedy}')
