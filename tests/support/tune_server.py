"""The command server of mil-tune.

Processes without a heartbeat are considered dead after 20 s: soon enough for a test, and late enough for the
heartbeat of a living process on a busy machine.
"""

from mil_toolkit.cli.tune import main
from mil_toolkit.search import storage
from mil_toolkit.study import run, supervision
from support.command_server import serve

if __name__ == "__main__":
    storage.HEARTBEAT, storage.GRACE = 1, 20
    setattr(run, "POLL", 0.2)  # noqa: B010 - imported there, so that mypy takes it for private
    supervision.POLL = 0.2
    serve(main)
