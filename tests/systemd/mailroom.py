"""The applications that queue mail on the machine, and the relay that gets it (sink.py)."""

from collections import Counter

from tests.systemd.walker import RELAY_PASSWORD, Walker

PYTHON = '/opt/email-worker/current/.venv/bin/python'
SENT = '/srv/sent'
INSERT = 'INSERT INTO outbound_emails (recipient, subject, body_text)'


class Mailroom:
    """Queues mail in SQL and sees what arrives, and how often."""

    def __init__(self, walker: Walker) -> None:
        self._walker, self._machine = walker, walker.machine

    def open(self) -> None:
        """Start the relay, on the installed release's Python."""
        self._machine.run(
            f'mkdir {SENT} && systemd-run --quiet --unit=sink --property=Restart=always '
            f"{PYTHON} /srv/tests/sink.py {SENT} '{RELAY_PASSWORD}'"
        )

    def queue(self, recipient: str, number: int = 1) -> None:
        """Queue mail; `#` in the recipient becomes a number."""
        self._walker.sql(
            f"{INSERT} SELECT replace('{recipient}', '#', n::text), 'Hello', 'It works.' "
            f'FROM generate_series(1, {number}) AS n; NOTIFY outbound_emails_due'
        )

    def start_load(self) -> None:
        """Queue an e-mail to load...@example.com every 50 ms, until stop_load."""
        self._machine.run(
            'cat > /srv/load.sql && systemd-run --quiet --unit=load --property=User=postgres '
            'psql -qX -d app -f /srv/load.sql -o /dev/null',
            given=f'WITH queued AS ({INSERT} VALUES '
            "('load' || gen_random_uuid() || '@example.com', 'Load', 'x') RETURNING id) "
            "SELECT pg_notify('outbound_emails_due', '') FROM queued \\watch 0.05\n",
        )

    def stop_load(self) -> int:
        """Stop it. Returns how many were queued."""
        self._machine.run('systemctl stop load')
        count = "SELECT count(*) FROM outbound_emails WHERE recipient LIKE 'load%'"
        return int(self._walker.sql(count))

    def wait_for(self, recipient: str, number: int = 1) -> None:
        """Wait until so many messages came, and see that each came once.

        Args:
            recipient: A regular expression of grep's.
        """
        self._walker.until(f"test $(ls {SENT} | grep -c '^{recipient} ') -ge {number}")
        assert len(self.received(recipient)) == number
        assert set(self.received(recipient).values()) == {1}

    def received(self, recipient: str) -> Counter[str]:
        """Return to whom messages went, and how many."""
        said = self._machine.run(f"ls {SENT} | grep '^{recipient} ' || true").out
        return Counter(line.partition(' ')[0] for line in said.splitlines())
