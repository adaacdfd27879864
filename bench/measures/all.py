"""All measures, in the order of the document."""

from bench.measures.api import Api
from bench.measures.commands import Commands
from bench.measures.delivery import DELAYED, EMAILS, STARTTLS
from bench.measures.desk import DeskLoad
from bench.measures.enqueue import Enqueue
from bench.measures.idle import Idle
from bench.measures.importing import Importing
from bench.measures.ingress import Ingress
from bench.measures.latency import Latency
from bench.measures.measure import Measure
from bench.measures.million import Million
from bench.measures.noop import Noop
from bench.measures.old_rows import OldRows
from bench.measures.pages import Pages
from bench.measures.priority import Priority
from bench.measures.workers import SCALING, WORKERS

MEASURES: tuple[Measure, ...] = (
    EMAILS,
    DELAYED,
    STARTTLS,
    WORKERS,
    Latency(),
    Priority(),
    Noop(),
    Idle(),
    Enqueue(),
    Api(),
    Ingress(),
    Importing(),
    Commands(),
    SCALING,
    Million(),
    OldRows(),
    Pages(),
    DeskLoad(),
)
