"""What notices say to people."""

from collections.abc import Sequence
from datetime import datetime

from delivery.alerts.verdict import Notice, NoticeKind

PHRASES = {
    NoticeKind.DOWN: 'is down',
    NoticeKind.STILL_DOWN: 'is still down',
    NoticeKind.UP: 'is up again',
}
REMEDY = '`python -m ops status` and `python -m ops doctor` say more; docs/runbook.md what to do.'


def title_of(notices: Sequence[Notice]) -> str:
    """Return a line: what is down, or up again."""
    told = [f'{notice.subject} {PHRASES[notice.kind]}' for notice in notices]
    more = f' and {len(told) - 3} more' if len(told) > 3 else ''
    return f'E-mail: {", ".join(told[:3])}{more}'


def text_of(notices: Sequence[Notice], source: str) -> str:
    """Return the whole text.

    Args:
        source: Who tells it: a worker, or doctor.
    """
    lines = []
    for notice in notices:
        since = _moment(notice.since)
        if notice.kind is NoticeKind.UP:
            lines.append(f'{notice.subject} is up again. It was down since {since}.')
        else:
            lines.append(f'{notice.subject} {PHRASES[notice.kind]} since {since}: {notice.detail}')
    return '\n'.join([*lines, '', REMEDY, f'Told by {source}.'])


def document_of(notices: Sequence[Notice], source: str) -> dict[str, object]:
    """Return what a webhook gets; chats show `text`."""
    return {
        'title': title_of(notices),
        'text': f'{title_of(notices)}\n{text_of(notices, source)}',
        'source': source,
        'notices': [
            {
                'kind': notice.kind.value,
                'subject': notice.subject,
                'since': notice.since.isoformat(),
                'detail': notice.detail,
            }
            for notice in notices
        ],
    }


def _moment(moment: datetime) -> str:
    return f'{moment:%Y-%m-%d %H:%M:%S}Z'
