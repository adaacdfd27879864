"""The links to unsubscribe lead to this installation, from here as from a recipient's."""

import asyncio
from http import HTTPStatus
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from mail.unsubscribe import PATH, UnsubscribeLinks
from reporting.checks.finding import Finding, error, warning

TIMEOUT_S = 5.0
MOST_BYTES = 64 * 1024
# A link that nobody was sent. Clicks are POSTs, and must be able to write; to take back what nobody
# has asked for changes nothing.
NOBODY = (0, 'doctor', 'doctor@example.com')
CLICK = b'action=subscribe'
SEE_PROXY = (
    f'the proxy has to pass {PATH} on to `python -m web`, which needs UNSUBSCRIBE_SECRET '
    '(docs/mail.md, Unsubscribing)'
)


class _NoRedirect(HTTPRedirectHandler):
    """RFC 8058, 3.1: who clicks follows none."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


async def check(links: UnsubscribeLinks | None) -> list[Finding]:
    """Click on a link as a recipient does; without types nobody gets one."""
    if links is None or not links.types:
        return []
    url = links.url(*NOBODY)
    if url is None:  # UNSUBSCRIBE_URL is not that long
        return []
    try:
        async with asyncio.timeout(2 * TIMEOUT_S):
            status, is_ours = await asyncio.to_thread(_click, url)
    except (OSError, ValueError) as refused:  # TimeoutError is one
        why = str(refused) or 'no answer in time'
        return [error(f'{links.base_url}{PATH} cannot be reached: {why}', SEE_PROXY)]
    return judge_link(f'{links.base_url}{PATH}', status, is_ours=is_ours)


def judge_link(place: str, status: int, *, is_ours: bool) -> list[Finding]:
    """Judge the answer to a link that we have signed.

    Args:
        is_ours: It has the page's own header.
    """
    if not is_ours:
        what = f'{place} answers {status}, and is not the page of this program: nobody can click'
        return [error(what, SEE_PROXY)]
    match status:
        case HTTPStatus.OK:
            return []
        case HTTPStatus.NOT_FOUND:
            what = f'{place} does not know the links that workers sign with this UNSUBSCRIBE_SECRET'
            remedy = 'give the web server the same secrets, and restart it'
            return [error(what, remedy)]
        case _:
            what = f'{place} answers {status} to a click'
            remedy = "see the web server's log (may its role write?); who clicks has to try again"
            return [warning(what, remedy)]


def _click(url: str) -> tuple[int, bool]:
    """Return the status, and whether it is our page."""
    request = Request(url, CLICK)  # noqa: S310 - UNSUBSCRIBE_URL is checked: https, or this machine
    try:
        with build_opener(ProxyHandler({}), _NoRedirect).open(request, timeout=TIMEOUT_S) as answer:
            answer.read(MOST_BYTES)
            return answer.status, 'x-robots-tag' in answer.headers
    except HTTPError as refused:
        with refused:
            return refused.code, 'x-robots-tag' in refused.headers
