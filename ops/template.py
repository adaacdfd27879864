"""Templates kept in files: push them, look at what comes of one, send a test, remove one."""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from actions import template_preview, templates
from actions.safety import RequestError
from actions.template_files import MAX_FILE_BYTES, MOST_FILES
from db.templates import list_templates
from ops.answer import Answer
from ops.arguments import add_change, add_json, add_limit, confirm
from ops.connect import Connections
from ops.mail_filter import text_value
from ops.output import print_table, say
from ops.person import this_user
from reporting.problems import Document, Problem
from reporting.wording import counted

ENDINGS = frozenset({'.txt', '.html', '.mjml', '.css', '.json', '.toml', '.svg', '.jinja', '.j2'})
COLUMNS = ('id', 'name', 'version', 'locales', 'pushed', 'by')
WRITTEN = {'subject': 'subject.txt', 'text': 'body.txt', 'html': 'body.html'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    verbs = parser.add_subparsers(
        dest='verb', required=True, metavar='push|ls|show|preview|test|rm'
    )
    push = verbs.add_parser('push', help='check a folder of templates, and store what changed')
    push.add_argument('directory', type=Path, metavar='DIR', help='see docs/mail.md, Templates')
    add_change(push)
    ls = verbs.add_parser('ls', help='all templates, by name')
    add_limit(ls, 200)
    show = verbs.add_parser('show', help='versions of one, and what previews are filled with')
    preview = verbs.add_parser('preview', help='what an e-mail with it would say')
    preview.add_argument(
        '--output', type=Path, metavar='DIR', help='write its parts to files there'
    )
    test = verbs.add_parser('test', help='queue one e-mail with it; a worker sends it')
    rm = verbs.add_parser('rm', help='remove all its versions')
    rm.add_argument('--force', action='store_true', help='also while e-mails wait that want it')
    for verb in (show, preview, test, rm):
        verb.add_argument('name', type=text_value, metavar='NAME', help='its name or its id')
    test.add_argument('address', type=text_value, metavar='ADDRESS')
    for verb in (preview, test):
        verb.add_argument('--locale', type=text_value, metavar='TAG', help='such as de-AT')
        verb.add_argument('--template-version', dest='version', type=int, metavar='N')
        verb.add_argument(
            '--data', type=Path, metavar='FILE', help='JSON instead of the sample pushed with it'
        )
    for verb in (test, rm):
        add_change(verb)
    for verb in (push, ls, show, preview, test, rm):
        add_json(verb)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Do what the verb says."""
    match options.verb:
        case 'push':
            return await _push(connections, options)
        case 'ls':
            rows = await connections.ask_postgres(partial(list_templates, limit=options.limit))
            return Answer({'template': 'ls', 'templates': rows})
        case 'show':
            shown = await templates.read_template_versions(connections, options.name)
            return Answer({'template': 'show', **shown})
        case 'preview':
            return await _preview(connections, options)
        case 'test':
            return await _test(connections, options)
    return await _remove(connections, options)


async def _push(connections: Connections, options: argparse.Namespace) -> Answer:
    def ask(changed: Sequence[templates.PushedTemplate]) -> None:
        names = ', '.join(f'{template.name} {template.version}' for template in changed)
        confirm(f'Store {names}? E-mails that wait get it, too.', yes=options.yes)

    done = await templates.push_templates(
        connections, read_directory(options.directory),
        pushed_by=this_user(), dry_run=options.dry_run, confirm=ask,
    )  # fmt: skip
    return Answer(
        {'template': 'push', 'dry_run': done.dry_run, 'pushed': list(map(asdict, done.templates))}
    )


def read_directory(directory: Path) -> dict[str, str]:
    """Return the texts below a folder by their paths.

    Names that begin with a dot and files with other endings are left out.

    Raises:
        RequestError: the folder cannot be read, or a file is too large, no text, or a link: that
            may lead to what nobody wants to send.
    """
    found: dict[str, str] = {}
    if not directory.is_dir():
        raise RequestError(f'{directory} is no folder', 'give the folder with the templates')
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        for name in (*folders, *sorted(names)):
            path = Path(folder, name)
            is_text = path.suffix in ENDINGS and not name.startswith('.')
            if path.is_symlink() and (is_text or name in folders):
                raise RequestError(f'{path} is a symbolic link', 'put a copy in its place')
            if is_text and path.is_file():
                found[path.relative_to(directory).as_posix()] = _text(path)
            if len(found) > MOST_FILES:
                raise RequestError(f'{directory} has more than {MOST_FILES} files', 'push fewer')
    return found


def _text(path: Path) -> str:
    try:
        with path.open('rb') as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) <= MAX_FILE_BYTES:
            return data.decode().replace('\r\n', '\n').removeprefix('\ufeff')
    except OSError as error:
        raise RequestError(f'{path}: {error.strerror}', 'let it be read') from error
    except UnicodeDecodeError as error:
        raise RequestError(f'{path}: it is no text in UTF-8', 'save it in UTF-8') from error
    what = f'{path}: more than {MAX_FILE_BYTES} bytes'
    raise RequestError(what, 'make it smaller')


def _data(options: argparse.Namespace) -> dict[str, Any] | None:
    if options.data is None:
        return None
    try:
        data = json.loads(_text(options.data))
    except (ValueError, RecursionError) as error:
        raise RequestError(f'{options.data}: it is no JSON: {error}', 'correct it') from error
    if not isinstance(data, dict):
        raise RequestError(f'{options.data}: it is no JSON object', 'write {"name": value, ...}')
    return data


async def _preview(connections: Connections, options: argparse.Namespace) -> Answer:
    shown = await template_preview.preview_template(
        connections, options.name,
        locale=options.locale, version=options.version, data=_data(options),
    )  # fmt: skip
    document: Document = {'template': 'preview', **asdict(shown)}
    if options.output is None:
        return Answer(document)
    written = []
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        for part, name in WRITTEN.items():
            if document[part] is not None:
                (options.output / name).write_text(document[part], encoding='utf-8')
                written.append(str(options.output / name))
    except OSError as error:
        remedy = 'give a folder that you may write to'
        raise RequestError(f'{options.output}: {error.strerror}', remedy) from error
    return Answer(document | {'written': written})


async def _test(connections: Connections, options: argparse.Namespace) -> Answer:
    def ask(recipient: str) -> None:
        confirm(f'Send {options.name} to {recipient}?', yes=options.yes, nothing='sent')

    email_id = await template_preview.send_test(
        connections, options.name, options.address, locale=options.locale,
        version=options.version, data=_data(options), dry_run=options.dry_run, confirm=ask,
    )  # fmt: skip
    document: Document = {'template': 'test', 'dry_run': options.dry_run, 'email_id': email_id}
    return Answer(document, email_ids=[] if email_id is None else [email_id])


async def _remove(connections: Connections, options: argparse.Namespace) -> Answer:
    def ask(planned: templates.RemovedTemplate) -> None:
        dead = f'; {counted(planned.waiting)} that wait cannot be sent' if planned.waiting else ''
        confirm(f'Remove all versions of {options.name}{dead}?', yes=options.yes)

    done = await templates.remove_pushed(
        connections, options.name, force=options.force, dry_run=options.dry_run, confirm=ask
    )
    problems = []
    if done.waiting and done.dry_run:
        what = f'{counted(done.waiting)} that wait want it'
        problems.append(Problem(what, 'let them be sent, or give --force'))
    return Answer({'template': 'rm', **asdict(done)}, problems)


def render(document: Document, console: Console) -> None:
    """Print the list, the preview, or what was done."""
    match document['template']:
        case 'push':
            _render_push(document, console)
        case 'ls':
            print_table(console, 'Templates', COLUMNS, map(_listed, document['templates']))
        case 'show':
            name = document['name'] or document['id']
            versions = (_listed(version)[2:] for version in document['versions'])
            title = f'Versions of {name} (id {document["id"]})'
            print_table(console, title, COLUMNS[2:], versions)
            say(console, f'Previews are filled with {json.dumps(document["sample"])}')
        case 'preview':
            _render_preview(document, console)
        case 'test':
            queued = f'E-mail {document["email_id"]} is queued.'
            say(console, 'It can be filled; nothing was queued.' if document['dry_run'] else queued)
        case 'rm':
            _render_removal(document, console)


def _listed(row: Document) -> tuple[Any, ...]:
    return (
        row.get('id'), row.get('name'), row['version'], ', '.join(row['locales']),
        row['pushed_at'], row['pushed_by'],
    )  # fmt: skip


def _render_push(document: Document, console: Console) -> None:
    for template in document['pushed']:
        word = 'unchanged'
        if template['is_new_version']:
            word = 'would be new' if document['dry_run'] else 'new'
        locales = ', '.join(template['locales'])
        version = f'version {template["version"]} {word}'
        say(
            console,
            f'{template["name"]} (id {template["id"] or "none yet"}): {version} ({locales})',
        )
    if document['dry_run']:
        say(console, 'Nothing was changed.')


def _render_preview(document: Document, console: Console) -> None:
    if 'written' in document:
        say(console, f'Written: {", ".join(document["written"])}')
        return
    for part in WRITTEN:
        if document[part] is not None:
            say(console, f'--- {part}\n{document[part]}', soft_wrap=True)


def _render_removal(document: Document, console: Console) -> None:
    if document['dry_run']:
        say(console, 'All its versions would be removed; nothing was changed.')
    else:
        row = '' if document['row_removed'] else '; what stands in its row counts again'
        say(console, f'All its versions are removed{row}.')
