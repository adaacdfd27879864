"""`relay test`: how far a dialogue with one relay comes, from this machine, and in what time."""

from rich.console import Console

from actions.safety import RequestError
from configuration.relays import relay_options
from mail_outbox.envelope import InvalidEmailError, ascii_address
from ops.answer import Answer
from ops.output import print_table
from reporting.checks.relays import REMEDIES
from reporting.dialogue import DialogueStep, dialogue, shown
from reporting.problems import Document, Problem
from settings import Settings

MORE_REMEDIES = {
    'MAIL FROM': 'set SMTP_FROM_EMAIL, or --from, to an address that it takes',
    'RSET': 'see its log',
    'QUIT': 'see its log',
}


async def talk(settings: Settings, name: str, sender: str | None) -> Answer:
    """Go through a dialogue.

    Raises:
        RequestError: there is no such relay, or the sender is no address.
    """
    relays = {options.name: options for options in relay_options(settings)}
    if name not in relays:
        raise RequestError(f'no relay is named {name[:80]}', f'there are {", ".join(relays)}')
    try:
        sender = ascii_address(sender or settings.smtp_from_email, '--from')
    except InvalidEmailError as error:
        raise RequestError(str(error), 'give one plain address') from error
    options = relays[name]
    steps = await dialogue(options, sender)
    document: Document = {
        'relay': name,
        'place': f'{options.host}:{options.port}',
        'tls': options.tls.value,
        'sender': sender,
        'steps': [shown(step) for step in steps],
        'took_ms': round(sum(step.took_ms for step in steps), 1),
    }
    return Answer(document, [_problem(document, step) for step in steps if not step.is_good])


def _problem(document: Document, step: DialogueStep) -> Problem:
    said = str(shown(step)['said'])
    place = f'{document["relay"]} ({document["place"]})'
    about = 'STARTTLS' if 'certificate' in said.lower() else step.step
    remedy = (REMEDIES | MORE_REMEDIES)[about]
    return Problem(f'the relay {place} fails at {step.step}: {said}', remedy)


def render_steps(document: Document, console: Console) -> None:
    """Print the steps."""
    print_table(
        console,
        f'{document["relay"]} at {document["place"]}, TLS {document["tls"]}: '
        f'{document["took_ms"]:g} ms',
        ('step', 'ms', '', 'said'),
        (
            (s['step'], f'{s["took_ms"]:g}', 'ok' if s['is_good'] else 'FAILS', s['said'])
            for s in document['steps']
        ),
    )
