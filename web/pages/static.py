"""The style and the script of the pages: files of ours, kept by browsers until they change."""

from hashlib import sha256
from http import HTTPStatus
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import PlainTextResponse, Response

DIRECTORY = Path(__file__).parents[1] / 'static'
MEDIA_TYPES = {'.css': 'text/css', '.js': 'text/javascript', '.svg': 'image/svg+xml'}
FILES = {path.name: path.read_bytes() for path in DIRECTORY.iterdir()}
FOR_GOOD = 'public, max-age=31536000, immutable'

router = APIRouter(include_in_schema=False)


def address_of_file(name: str) -> str:
    """Return a file's path; another content has another one."""
    return f'/static/{sha256(FILES[name]).hexdigest()[:12]}/{name}'


@router.get('/static/{version}/{name}')
async def static_file(version: str, name: str) -> Response:
    """Give a file."""
    if name not in FILES or address_of_file(name) != f'/static/{version}/{name}':
        return PlainTextResponse('there is no such file\n', HTTPStatus.NOT_FOUND)
    media_type = MEDIA_TYPES[Path(name).suffix]
    return Response(FILES[name], media_type=media_type, headers={'Cache-Control': FOR_GOOD})
