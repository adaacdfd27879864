"""Templates that are kept in files: versions, what comes of one, and a test."""

from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from actions.template_preview import preview_template
from actions.templates import read_template_versions
from db.templates import list_templates
from reporting.problems import Document, Problem, ProblemError
from reporting.servers import answer_or_note
from web.auth.people import Role
from web.pages.desk import Desk, desk_of, page, person
from web.pages.one_mail import FRAME_HEADERS, FRAMES
from web.pages.tables import Cell, PageTable

router = APIRouter(include_in_schema=False)

MOST = 500
LONGEST_WORD = 100


@router.get('/templates')
async def templates_page(request: Request) -> Response:
    """List the templates."""
    visitor, desk = await person(request, of_all=True), desk_of(request)
    rows = await desk.servers.ask_postgres(partial(list_templates, limit=MOST))
    table = PageTable(
        'Templates',
        ('name', 'id', 'version', 'locales', 'pushed', 'by'),
        'There is no template. `python -m ops template push DIR` pushes a folder of them.',
    )
    for row in rows:
        href = f'/templates/one?{urlencode({"id": row["id"]})}'
        version = 'not pushed' if row['version'] is None else row['version']
        table.add([
            Cell(row['name'] or row['id'], href=href), Cell(row['id']), Cell(version),
            Cell(', '.join(row['locales'])), Cell(row['pushed_at']), Cell(row['pushed_by']),
        ])  # fmt: skip
    return await page(
        request, visitor, 'tables.html', title='Templates', tables=[table], problems=[]
    )


def _asked(request: Request) -> dict[str, Any]:
    """Return which template, and how it is to be filled."""
    words = {
        name: request.query_params.get(name, '')[:LONGEST_WORD]
        for name in ('id', 'locale', 'version')
    }
    version = words['version']
    is_number = version.isascii() and version.isdigit() and 0 < int(version) < 2**31
    return {
        'word': words['id'],
        'locale': words['locale'] or None,
        'version': int(version) if is_number else None,
    }


async def _preview(desk: Desk, asked: dict[str, Any]) -> Document | None:
    return asdict(await preview_template(desk.servers, **asked))


@router.get('/templates/one')
async def template_page(request: Request) -> Response:
    """Show one template: its versions, and what an e-mail with it says, filled with its sample."""
    visitor, desk = await person(request, Role.OPERATE, of_all=True), desk_of(request)
    asked, problems = _asked(request), list[Problem]()
    known = await answer_or_note(read_template_versions(desk.servers, asked['word']), problems)
    shown = known and await answer_or_note(_preview(desk, asked), problems)
    values = {
        'id': asked['word'],
        'locale': asked['locale'] or '',
        'version': asked['version'] or '',
    }
    return await page(
        request, visitor, 'template.html', template=known, shown=shown, asked=asked,
        problems=problems, frame=f'/templates/frame?{urlencode(values)}',
        # The form of a test names it so; a longer id is for the command.
        kind=f'{asked["word"]} {asked["locale"] or ""}'.strip(),
    )  # fmt: skip


@router.get('/templates/frame')
async def template_frame(request: Request) -> Response:
    """Give the HTML of a preview by itself, for the frame."""
    _, desk = await person(request, Role.OPERATE, of_all=True), desk_of(request)
    try:
        shown = await _preview(desk, _asked(request))
    except ProblemError as error:
        return HTMLResponse(
            'It cannot be filled.', HTTPStatus.SERVICE_UNAVAILABLE
            if error.problem.service else HTTPStatus.NOT_FOUND, FRAME_HEADERS,
        )  # fmt: skip
    return HTMLResponse(
        FRAMES.sub(r'<\1no-\2', (shown and shown['html']) or ''), headers=FRAME_HEADERS
    )
