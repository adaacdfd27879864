"""Templates that are kept in files: push a set of them, list versions, remove one."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import asyncpg

from actions.safety import RequestError, agree
from actions.template_files import read_set
from actions.template_preview import filled_template, renderers, template_of
from db.templates import (
    NewVersion,
    count_wanting,
    list_templates,
    push_version,
    read_newest,
    read_sample,
    read_versions,
    remove_template,
)
from mail_outbox.envelope import Template
from reporting.problems import Document
from reporting.servers import Servers

MOST_WAITING = 10_000
MOST_VERSIONS = 100


@dataclass(frozen=True, slots=True)
class PushedTemplate:
    """One template of a push."""

    name: str
    id: str | None  # None: it would be made
    version: int  # the newest afterwards
    is_new_version: bool
    locales: Sequence[str]


@dataclass(frozen=True, slots=True)
class PushedSet:
    """What was pushed, or would be."""

    dry_run: bool
    templates: Sequence[PushedTemplate]


async def push_templates(
    servers: Servers,
    files: Mapping[str, str],
    *,
    pushed_by: str | None = None,
    dry_run: bool = False,
    confirm: Callable[[Sequence[PushedTemplate]], None] = agree,
) -> PushedSet:
    """Check every template of a set with its sample, in each locale; then store those that changed.

    Args:
        files: See actions.template_files.read_set.
        confirm: Gets those that get a new version.
    Raises:
        RequestError: names the file and the line; nothing was stored.
        ProblemError: PostgreSQL does not answer; what was stored before stays, and is told as
            unchanged next time.
    """
    versions = read_set(files)
    newest = await servers.ask_postgres(
        partial(read_newest, names=[version.name for version in versions])
    )
    plan = [_planned(version, newest[version.name]) for version in versions]
    await _check_all(versions)
    changed = [template for template in plan if template.is_new_version]
    if dry_run:
        return PushedSet(True, plan)
    if changed:
        confirm(changed)
    done = []
    for version in versions:
        template_id, number, is_new = await servers.ask_postgres(
            partial(_push, new=version, pushed_by=pushed_by)
        )
        done.append(
            PushedTemplate(version.name, template_id, number, is_new, tuple(version.contents))
        )
    return PushedSet(False, done)


async def _push(
    pool: asyncpg.Pool, new: NewVersion, pushed_by: str | None
) -> tuple[str, int, bool]:
    try:
        return await push_version(pool, new, pushed_by=pushed_by)
    except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError,
            asyncpg.UndefinedColumnError) as error:  # fmt: skip
        raise RequestError(
            f'email_templates takes no row for {new.name}: {error}',
            "it is the application's table: insert the row there, and push again",
        ) from error


def _planned(version: NewVersion, known: Mapping[str, Any]) -> PushedTemplate:
    is_new = known['digest'] != version.digest
    number = (known['version'] or 0) + is_new
    return PushedTemplate(version.name, known['id'], number, is_new, tuple(version.contents))


async def _check_all(versions: Sequence[NewVersion]) -> None:
    async with renderers() as templates:
        for version in versions:
            data = json.dumps(version.sample)
            for locale, content in version.contents.items():
                template = Template(None, None, None, json.dumps(content))
                await filled_template(templates, template, data, locale, check=True)


async def read_template_versions(servers: Servers, word: str) -> Document:
    """Return a template as list_templates tells it, with its versions and its sample."""
    template_id = await template_of(servers, word)
    [template] = await servers.ask_postgres(
        partial(list_templates, template_id=template_id, limit=1)
    )
    versions = await servers.ask_postgres(
        partial(read_versions, template_id=template_id, limit=MOST_VERSIONS)
    )
    sample = await servers.ask_postgres(partial(read_sample, template_id=template_id, version=None))
    return template | {'versions': versions, 'sample': json.loads(sample or '{}')}


@dataclass(frozen=True, slots=True)
class RemovedTemplate:
    """What was removed, or would be."""

    dry_run: bool
    id: str
    waiting: int  # e-mails that want it and cannot be sent without
    row_removed: bool  # else the row, which was there before the first push, counts again


async def remove_pushed(
    servers: Servers,
    word: str,
    *,
    force: bool = False,
    dry_run: bool = False,
    confirm: Callable[[RemovedTemplate], None] = agree,
) -> RemovedTemplate:
    """Remove all versions of a template, and its row if a push made it.

    Args:
        force: Also while e-mails wait that want it: these will be dead.
    Raises:
        RequestError: there is no such template, nothing of it was pushed, or e-mails wait.
    """
    known = await read_template_versions(servers, word)
    template_id = known['id']
    if not known['versions']:
        raise RequestError(
            f'nothing was pushed to {word}', "it is a row of the application's: delete it there"
        )
    counting = partial(count_wanting, template_id=template_id, limit=MOST_WAITING)
    waiting = await servers.ask_postgres(counting)
    planned = RemovedTemplate(dry_run, template_id, waiting, row_removed=False)
    if dry_run:
        return planned
    if waiting and not force:
        raise RequestError(
            f'{waiting} e-mails that wait want it', 'let them be sent, or give --force'
        )
    confirm(planned)
    removing = partial(remove_template, template_id=template_id)
    return RemovedTemplate(False, template_id, waiting, await servers.ask_postgres(removing))
