"""Workers of another application in the same Redis database: they take our jobs, and we take theirs.

A job is a number, and means another e-mail in each database: none can be handed on, for nobody can
tell whose it is. PostgreSQL is the truth, so no e-mail is lost by that: the sweep of its own
application sends it. But it may be late, and so the worker says it, the doctor calls it an error,
and no command of `ops control` goes to the others.
"""

REMEDY = 'give each application a Redis database of its own: the number at the end of ARQ_REDIS_URL'


class Neighbours:
    """The workers of other databases that were registered at the last look, see fleet.neighbours."""

    def __init__(self, database: str = '') -> None:
        self.database = database  # ours, see db.identity
        self.names: list[str] = []
