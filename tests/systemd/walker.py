"""Types docs/deployment.md on a machine, as its reader: in order, with the answers it asks for."""

import re
import time
from collections.abc import Iterator

from tests.systemd.document import COMMANDS, Command
from tests.systemd.machine import Machine, Said

CHECKOUT, UPSTREAM = '/usr/src/email-worker', '/srv/upstream'
DEADLINE_S = 60.0
RELAY_PASSWORD = 'the secret of the relay'
# What the editor leaves in /etc/email-worker/env.
SETTINGS = """SMTP_HOST=127.0.0.1
SMTP_PORT=25025
SMTP_USE_TLS=false
SMTP_USER=shop
SMTP_FROM_EMAIL=shop@example.com
DB_HOST=localhost
DB_USER=email_worker
DB_NAME=app
"""
REDIS_URL = 'redis://email-worker:PASSWORD@localhost:6379/1'
PASTED = {
    'email-worker.DB_PASSWORD': 'secret-of-email_worker',
    'email-worker.SMTP_PASSWORD': RELAY_PASSWORD,
    'email-worker.ARQ_REDIS_URL': REDIS_URL,
}
BACKUP = re.compile(r'/var/backups/(\w+)-\d{8}T\d{6}Z\.(\w+)')


class Walker:
    """Carries commands out; what the document leaves to its reader is put in."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.typed: list[Command] = []

    def follow(self, section: str, **options: str) -> list[Said]:
        """Type every command of a section that has not been typed."""
        return list(self.steps(section, **options))

    def steps(self, section: str, **options: str) -> Iterator[Said]:
        """Type the same, one for each step."""
        commands = [c for c in COMMANDS if c.section == section and c not in self.typed]
        assert commands, f'nothing is to be typed in {section!r}'
        for command in commands:
            self.typed.append(command)
            yield self.type(command.text, **options)

    def type(self, text: str, umask: str = '022', status: int = 0) -> Said:
        """Type one command in the checkout, and what it asks for."""
        text = self._filled_in(text)
        return self.machine.run(
            f'umask {umask}\n{text}', given=self._answer(text), status=status, directory=CHECKOUT
        )

    def _filled_in(self, text: str) -> str:
        """Put passwords and names of files where the document has examples."""
        text = re.sub(r'(redis://([\w-]+):)PASSWORD', self._with_password, text)
        text = re.sub(r'(REDISCLI_AUTH=())PASSWORD', self._with_password, text)
        text = re.sub(r'postgresql://(\w+):PASSWORD@', r'postgresql://\1:secret-of-\1@', text)
        return BACKUP.sub(lambda name: self._newest(name[1], name[2]), text)

    def _with_password(self, found: re.Match[str]) -> str:
        return found[1] + self.redis_password(found[2] or 'admin')

    def _newest(self, kind: str, ending: str) -> str:
        return self.machine.run(f'ls -t /var/backups/{kind}-*.{ending} | head -n 1').out.strip()

    def _answer(self, text: str) -> str:
        """Return what a command is given that waits for somebody to type."""
        if asked := re.search(r'\\password (\w+)|--pwprompt (\w+)', text):
            return f'secret-of-{asked[1] or asked[2]}\n' * 2
        if text.startswith('editor '):
            return SETTINGS
        if pasted := re.match(r'install -m 600 /dev/stdin /etc/credstore/([\w.-]+)', text):
            return self._filled_in(PASTED[pasted[1]]) + '\n'
        if '--askpass' in text:
            return self.redis_password('admin') + '\n'
        return ''

    def redis_password(self, user: str) -> str:
        """Return a user's password, as the document had it made."""
        find = rf"sed -n 's/^user {user} on >\([^ ]*\) .*/\1/p' /etc/redis/users.acl"
        return self.machine.run(find).out.strip()

    def sql(self, statement: str, database: str = 'app') -> str:
        """Return what PostgreSQL answers its superuser, without decoration."""
        return self.machine.run(
            f'runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 -d {database}',
            given=statement,
            directory='/',
        ).out.strip()

    def until(self, condition: str, deadline_s: float = DEADLINE_S) -> str:
        """Return what a command prints as soon as it succeeds."""
        end = time.monotonic() + deadline_s
        while (said := self.machine.run(condition, status=None)).status != 0:
            assert time.monotonic() < end, f'not within {deadline_s} s: {said}'
            time.sleep(0.1)
        return said.out.strip()
