"""The media types of attachments that do not say theirs, by the ending of the file's name.

What IANA has registered and Python's own list lacks; what both lack is application/octet-stream.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mimetypes

UNKNOWN_TYPE = 'application/octet-stream'
PACKED_TYPES = {
    'gzip': 'application/gzip',
    'bzip2': 'application/x-bzip2',
    'xz': 'application/x-xz',
}
_OFFICE = 'application/vnd.openxmlformats-officedocument'
_OPEN = 'application/vnd.oasis.opendocument'
REGISTERED = {
    'docx': f'{_OFFICE}.wordprocessingml.document',
    'dotx': f'{_OFFICE}.wordprocessingml.template',
    'docm': 'application/vnd.ms-word.document.macroEnabled.12',
    'xlsx': f'{_OFFICE}.spreadsheetml.sheet',
    'xltx': f'{_OFFICE}.spreadsheetml.template',
    'xlsm': 'application/vnd.ms-excel.sheet.macroEnabled.12',
    'pptx': f'{_OFFICE}.presentationml.presentation',
    'ppsx': f'{_OFFICE}.presentationml.slideshow',
    'odt': f'{_OPEN}.text',
    'ods': f'{_OPEN}.spreadsheet',
    'odp': f'{_OPEN}.presentation',
    'rtf': 'application/rtf',
    'msg': 'application/vnd.ms-outlook',
    'epub': 'application/epub+zip',
    'pkpass': 'application/vnd.apple.pkpass',
    'ics': 'text/calendar',
    'vcf': 'text/vcard',
    'md': 'text/markdown',
    'yaml': 'application/yaml',
    'yml': 'application/yaml',
    'log': 'text/plain',
    'webp': 'image/webp',
    'avif': 'image/avif',
    'heic': 'image/heic',
    'm4a': 'audio/mp4',
    'ogg': 'audio/ogg',
    'flac': 'audio/flac',
    '7z': 'application/x-7z-compressed',
    'rar': 'application/vnd.rar',
    'p7m': 'application/pkcs7-mime',
    'p7s': 'application/pkcs7-signature',
    'geojson': 'application/geo+json',
    'parquet': 'application/vnd.apache.parquet',
    'woff2': 'font/woff2',
}


def media_type_of(ending: str) -> str:
    """Return the media type of a file; the same on every machine, whatever its mime.types says.

    Args:
        ending: What follows the first dot of its name, such as 'pdf' or 'tar.gz'.
    """
    if registered := REGISTERED.get(ending.rpartition('.')[2].lower()):
        return registered
    guessed, packed = _builtin_types().guess_type(f'x.{ending}')
    if packed is not None:
        return PACKED_TYPES.get(packed, UNKNOWN_TYPE)
    return guessed or UNKNOWN_TYPE


@lru_cache(maxsize=1)
def _builtin_types() -> 'mimetypes.MimeTypes':
    import mimetypes  # noqa: PLC0415 - most e-mails have no attachment

    return mimetypes.MimeTypes()
