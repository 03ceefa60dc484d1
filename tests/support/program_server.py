"""Runs the commands of `programs.py` one after the other, in one process that remembers results.

The argument is the path of a Unix socket. A request is [name, argv, folder] as JSON, with the descriptors for
the stdout and stderr of the command; the answer is its exit code.
"""

import json
import os
import socket
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module


def run(name: str, argv: Sequence[str], folder: str, streams: Sequence[int]) -> int:
    """Run a command, and return its exit code."""
    os.chdir(folder)
    for place, stream in enumerate(streams, start=1):
        os.dup2(stream, place)
        os.close(stream)
    sys.stdout, sys.stderr = (os.fdopen(place, "w", closefd=False) for place in (1, 2))
    try:
        code = import_module(f"mil_toolkit.cli.{name}").main(list(argv))
    except SystemExit as stop:  # from argparse
        code = stop.code
    except BaseException:  # noqa: BLE001 - as a program of its own would end
        traceback.print_exc()
        code = 1
    sys.stdout.flush(), sys.stderr.flush()
    return int(code or 0)


def serve(listening: socket.socket, nothing: int) -> None:
    """Answer requests until this process is ended; nothing: a descriptor of /dev/null."""
    while True:
        with listening.accept()[0] as client:
            request, streams, *_ = socket.recv_fds(client, 1 << 16, 2)
            name, argv, folder = json.loads(request)
            code = run(name, argv, folder, streams)
            for place in (1, 2):  # a script ends when nobody holds its streams any more
                os.dup2(nothing, place)
            client.sendall(str(code).encode())


if __name__ == "__main__":  # the workers of commands import this file too, and need nothing of it
    import pytest
    import torch

    from support.remembered import remember_networks, remember_results

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen()
        torch.set_num_threads(1)
        remember_results(pytest.MonkeyPatch())
        remember_networks(pytest.MonkeyPatch())
        serve(listener, os.open(os.devnull, os.O_RDWR))
