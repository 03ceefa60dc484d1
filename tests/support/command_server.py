"""Runs commands in forks of a process that has imported and built everything: 0.3 s instead of 5 s each.

Reads one JSON object per line. {"argv", "env", "log", "fault"} starts a process and answers with its id,
{"wait"} answers with the exit status of a process. {"here", "log"} runs a command in the server itself and
answers with its exit code: processes that start later need not import or compute again what it needed.

A fault is [kind, step, count]: `kill` or `stop` the process after the count-th publishing step of this name,
or `limit` the size of its files to count bytes.
"""

import contextlib
import itertools
import json
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import torch

from mil_toolkit.core import files

Main = Callable[[list[str]], int]

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def after(call: Callable[..., Any], count: int, number: signal.Signals) -> Callable[..., Any]:
    """Return a function that calls `call` and sends this process a signal after the count-th time."""
    calls = itertools.count(1)

    def wrapped(*arguments: Any) -> Any:
        result = call(*arguments)
        if next(calls) == count:
            # To this thread, which then does nothing more; the others would not stop at once.
            signal.pthread_kill(threading.get_ident(), number)
        return result

    return wrapped


def half_a_write(write: Callable[..., int]) -> Callable[..., int]:
    """Return a function that writes only the first half of its content."""
    return lambda descriptor, content: write(descriptor, content[: max(1, len(content) // 2)])


def inject(kind: str, step: str, count: int) -> None:
    """Prepare a fault in this process."""
    if kind == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (count, count))
        return
    if step == "half a write":
        os.write = half_a_write(os.write)
    names = {
        "create": (files, "_locked_temporary"),
        "half a write": (os, "write"),
        "write": (files, "_write_all"),
        "fsync": (os, "fsync"),
        "rename": (os, "replace"),
        "fsync folder": (files, "fsync_folder"),
    }
    place, name = names[step]
    setattr(place, name, after(getattr(place, name), count, SIGNALS[kind]))


def child(main: Main, request: dict[str, Any]) -> int:
    """Run the command in a forked process."""
    os.environ.update(request["env"])
    log = os.open(request["log"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(log, 1), os.dup2(log, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    if request["fault"]:
        inject(*request["fault"])
    return main(request["argv"])


def run_here(main: Main, request: dict[str, Any]) -> int:
    """Run the command in this process."""
    with open(request["log"], "w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        return main(request["here"])


def serve(main: Main) -> None:
    """Answer requests until the input ends."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        elif "here" in request:
            answer = run_here(main, request)
        elif not (answer := os.fork()):
            try:
                code = child(main, request)
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(code)
            except BaseException:  # noqa: BLE001 - a forked process must not continue as a second server
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(99)
        print(answer, flush=True)
