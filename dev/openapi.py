"""Write docs/openapi.json: `python -m dev.openapi`.

What would break a client that was written by the file as it is (a path, a field of an answer or a
word that is gone, a field that is wanted now) is named, and not written without --breaking. It then
belongs into CHANGELOG.md, with a new major VERSION in web/api/application.py.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from actions.retry import RetryTerms
from mail_outbox.address_fields import Sender
from reporting.servers import ServerAddresses, Servers
from web.api.application import Application, add_api
from web.api.parts import Api

DOCUMENT = Path(__file__).parents[1] / 'docs/openapi.json'

Schema = Mapping[str, Any]


def describe() -> dict[str, Any]:
    """Return what /openapi.json says; no server is asked."""
    app = Application()
    nobody = Servers(ServerAddresses('postgresql://127.0.0.1/mail', 'redis://127.0.0.1/1'))
    add_api(app, Api(nobody, nobody, RetryTerms(24, 'arq:queue'), Sender('noreply@example.com')))
    return app.openapi()


def as_text(document: Schema) -> str:
    """Return the file's text."""
    return json.dumps(document, indent=1, sort_keys=True) + '\n'


def breaking(before: Schema, after: Schema) -> list[str]:
    """Name what a client of the one may miss in the other."""
    found: list[str] = []
    for path, operations in before['paths'].items():
        for method, operation in operations.items():
            place = f'{method.upper()} {path}'
            now = after['paths'].get(path, {}).get(method)
            if now is None:
                found.append(f'{place} is gone')
                continue
            found += [f'{place}: {what}' for what in _operation(operation, now, before, after)]
    return found


def _operation(old: Schema, new: Schema, before: Schema, after: Schema) -> Iterator[str]:
    for status, answer in old['responses'].items():
        if status not in new['responses']:
            yield f'answers {status} no more'
            continue
        for media_type, content in answer.get('content', {}).items():
            now = new['responses'][status].get('content', {}).get(media_type)
            if now is None:
                yield f'{status} is no {media_type} any more'
            else:
                pair = (_resolved(content['schema'], before), _resolved(now['schema'], after))
                yield from (f'{status}: {what}' for what in _answer(*pair, before, after))
    parameters = {(p['in'], p['name']): p for p in new.get('parameters', ())}
    known = {(p['in'], p['name']) for p in old.get('parameters', ())}
    for place, name in known - parameters.keys():
        yield f'takes no {place} parameter {name} any more'
    for (place, name), parameter in parameters.items():
        if parameter.get('required') and (place, name) not in known:
            yield f'wants the {place} parameter {name}'
    yield from _request(_body(old, before), _body(new, after), before, after)
    if _body(old, before) == {} and new.get('requestBody', {}).get('required'):
        yield 'wants a body'


def _body(operation: Schema, document: Schema) -> Schema:
    content = operation.get('requestBody', {}).get('content', {}).get('application/json', {})
    return _resolved(content.get('schema', {}), document)


def _resolved(schema: Schema, document: Schema) -> Schema:
    """Follow a reference; of a schema or null, return the schema."""
    if '$ref' in schema:
        name = schema['$ref'].rpartition('/')[2]
        found: Schema = document['components']['schemas'][name]
        return _resolved(found, document)
    others = [part for part in schema.get('anyOf', ()) if part.get('type') != 'null']
    return _resolved(others[0], document) if len(others) == 1 else schema


def _answer(old: Schema, new: Schema, before: Schema, after: Schema) -> Iterator[str]:
    """Name what an answer had and has no more, at any depth."""
    if old.get('type') != new.get('type'):
        yield f'{old.get("type")} is now {new.get("type")}'
        return
    if 'items' in old and 'items' in new:
        pair = (_resolved(old['items'], before), _resolved(new['items'], after))
        yield from (f'[]: {what}' for what in _answer(*pair, before, after))
    for name, part in old.get('properties', {}).items():
        now = new.get('properties', {}).get(name)
        if now is None:
            yield f'the field {name} is gone'
            continue
        pair = (_resolved(part, before), _resolved(now, after))
        yield from (f'{name}: {what}' for what in _answer(*pair, before, after))


def _request(old: Schema, new: Schema, before: Schema, after: Schema) -> Iterator[str]:
    """Name what a body took and takes no more, or wants now."""
    for word in set(old.get('enum', ())) - set(new.get('enum', old.get('enum', ()))):
        yield f'the body takes no {word!r} any more'
    for name, part in old.get('properties', {}).items():
        now = new.get('properties', {}).get(name)
        if now is None:
            yield f'the body takes no field {name} any more'
        else:
            pair = (_resolved(part, before), _resolved(now, after))
            yield from (f'{name}: {what}' for what in _request(*pair, before, after))
    for name in set(new.get('required', ())) - set(old.get('required', ())):
        if old:
            yield f'the body wants the field {name}'


def main() -> int:
    """Write the file. Returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--breaking', action='store_true', help='also what breaks clients')
    options = parser.parse_args()
    document = describe()
    if DOCUMENT.exists() and not options.breaking:
        broken = breaking(json.loads(DOCUMENT.read_text()), document)
        if broken:
            print('\n'.join(['This breaks clients (see --help):', *broken]), file=sys.stderr)
            return 1
    DOCUMENT.write_text(as_text(document))
    return 0


if __name__ == '__main__':
    sys.exit(main())
