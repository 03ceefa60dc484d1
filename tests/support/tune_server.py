"""The command server of mil-tune.

Processes without a heartbeat are considered dead after 20 s: soon enough for a test, and late enough for the
heartbeat of a living process on a busy machine.
"""

if __name__ == "__main__":  # the workers of commands import this file too, and need nothing of it
    import pytest
    from tqdm import tqdm

    from mil_toolkit.cli.tune import main
    from mil_toolkit.core import pool
    from mil_toolkit.search import storage
    from mil_toolkit.study import run
    from support.command_server import serve
    from support.remembered import remember_results

    storage.HEARTBEAT, storage.GRACE = 1, 20
    run.POLL = pool.POLL = 0.2
    tqdm.monitor_interval = 0  # no thread, which a fork would lack
    remember_results(pytest.MonkeyPatch())
    serve(main)
