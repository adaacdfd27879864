"""Compare what the outbox says about an e-mail with what the inbox holds."""

import email
import email.policy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from dev.demo_kinds import DORA, Kind
from mail_outbox.envelope import parse_recipients


@dataclass(frozen=True, slots=True)
class Found:
    """What became of it, and every difference from what was expected."""

    email_id: int
    kind: str
    status: str
    attempts: int
    relay: str | None
    reply: str
    inbox: str
    problems: list[str]


def inbox_entries(directory: Path) -> list[dict[str, Any]]:
    """Return the inbox's index, in the order of arrival."""
    index = directory / 'index.jsonl'
    return [json.loads(line) for line in index.read_text().splitlines()] if index.exists() else []


def verify(
    kind: Kind, row: dict[str, Any], entries: Sequence[dict[str, Any]], directory: Path
) -> Found:
    """Compare a row with the inbox's entries that carry its Message-ID or its recipient."""
    address = parse_recipients(kind.recipient)[0].address
    mine = [
        entry
        for entry in entries
        if entry['message_id'] == row['message_id'] or address in entry['rcpt_to']
    ]
    problems = [
        f'{name} is {row[name]}, not {expected}'
        for name, expected in (
            ('status', kind.status),
            ('attempts', kind.attempts),
            ('relay', kind.relay),
        )
        if expected is not None and row[name] != expected
    ]
    if len(mine) != (1 if kind.status == 'sent' else 0):
        problems.append(f'{len(mine)} in the inbox')
    inbox = 'nothing'
    if mine:
        entry = mine[0]
        message = email.message_from_bytes(
            (directory / entry['file']).read_bytes(), policy=email.policy.default
        )
        problems += _differences(kind, row, entry, message)
        parts = [part.get_content_type() for part in message.walk() if not part.is_multipart()]
        inbox = f'{entry["relay"]}: {", ".join(parts)}'
    reply = f'{row["smtp_code"]} {row["enhanced_code"] or ""}' if row['smtp_code'] else '-'
    return Found(
        row['id'], kind.name, row['status'], row['attempts'], row['relay'], reply, inbox, problems
    )


def _differences(
    kind: Kind, row: dict[str, Any], entry: dict[str, Any], message: EmailMessage
) -> list[str]:
    problems = []
    if row['template_id'] is None and message['Subject'] != row['subject']:
        problems.append(f'subject in the inbox: {message["Subject"]}')
    body = message.get_body(('plain',))
    expected_text = (
        row['body_text'] if row['template_id'] is None else f'Hello {DORA["name"]}.'
    ).strip()
    if body is None or body.get_content().strip() != expected_text:
        problems.append('the text in the inbox differs')
    if entry['relay'] != row['relay']:
        problems.append(f'arrived at {entry["relay"]}')
    arrived = {part.get_filename(): part.get_content() for part in message.iter_attachments()}
    if arrived != {a.filename: a.data for a in kind.attachments}:
        problems.append('attachments differ')
    return problems
