"""Runs the commands of `programs.py`, each in a fork of this process, which has imported all modules.

The argument is the path of a Unix socket. A request is [name, argv, folder] as JSON, with the descriptors for
the stdout and stderr of the command; the answer is its exit code.
"""

import json
import os
import pkgutil
import socket
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

import torch

import mil_toolkit


def run(name: str, argv: Sequence[str], folder: str, streams: Sequence[int]) -> int:
    """Run a command in a forked process, and return its exit code."""
    os.chdir(folder)
    for place, stream in enumerate(streams, start=1):
        os.dup2(stream, place)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    try:
        code = import_module(f"mil_toolkit.cli.{name}").main(list(argv))
    except SystemExit as stop:  # from argparse
        code = stop.code
    except BaseException:  # noqa: BLE001 - a forked process must not continue as a second server
        traceback.print_exc()
        code = 1
    sys.stdout.flush(), sys.stderr.flush()
    return int(code or 0)


def serve(listening: socket.socket) -> None:
    """Answer requests until this process is ended."""
    while True:
        with listening.accept()[0] as client:
            request, streams, *_ = socket.recv_fds(client, 1 << 16, 2)
            name, argv, folder = json.loads(request)
            child = os.fork()
            if not child:
                os._exit(run(name, argv, folder, streams))
            for stream in streams:
                os.close(stream)
            client.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())


if __name__ == "__main__":
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen()
        torch.set_num_threads(1)
        for module in pkgutil.walk_packages(mil_toolkit.__path__, "mil_toolkit."):
            import_module(module.name)
        serve(listener)
