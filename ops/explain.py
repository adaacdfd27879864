"""In words: why an e-mail is not sent yet, when it will be, and what to do."""

import argparse

from rich.console import Console

from ops.answer import Answer
from ops.arguments import add_json, email_id
from ops.connect import Connections
from ops.output import say
from reporting.explain import explain_email
from reporting.problems import Document
from reporting.seen_at import page_of_mail
from reporting.wording import cell, length


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument('id', type=email_id, metavar='ID')
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Explain it; what does not answer is named and left out."""
    document, problems = await explain_email(connections, options.id)
    page = page_of_mail(connections.settings.web_public_url, options.id)
    return Answer(document | {'page': page}, problems)


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
    if document['page']:
        say(console, f'At the desk: {document["page"]}')
