"""The command server of mil-tune; processes that fall silent are held for dead within seconds."""

from command_server import serve

from mil_toolkit import trials, tuning
from mil_toolkit.cli.tune import main

if __name__ == "__main__":
    trials.HEARTBEAT, trials.GRACE, tuning.POLL = 1, 4, 0.2
    serve(main)
