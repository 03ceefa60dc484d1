"""The command server of mil-tune; processes that fall silent are held for dead within seconds."""

from mil_toolkit.cli.tune import main
from mil_toolkit.search import storage
from mil_toolkit.study import run, supervision
from support.command_server import serve

if __name__ == "__main__":
    storage.HEARTBEAT, storage.GRACE = 1, 4
    run.POLL = supervision.POLL = 0.2
    serve(main)
