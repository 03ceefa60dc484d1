"""Forks processes that run a command from one that has imported and built everything: 0.3 s instead of 5 s each.

Reads one JSON object a line: {"argv", "env", "log", "fault"} starts a process and answers its id, {"wait"} answers
the status of one. A fault is [what, step, count]: at the count-th publishing step of this name the process is
killed or stopped, or `limit` bounds the size of its files.
"""

import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch

from mil_toolkit.core import files

Main = Callable[[list[str]], int]

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def after(call: Callable[..., Any], count: int, number: signal.Signals) -> Callable[..., Any]:
    """The call, behind whose count-th time the process gets a signal."""
    left = [count]

    def wrapped(*arguments: Any) -> Any:
        result = call(*arguments)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), number)
        return result

    return wrapped


def half_a_write(write: Callable[..., int]) -> Callable[..., int]:
    """A write that stops in the middle."""
    return lambda descriptor, content: write(descriptor, content[: max(1, len(content) // 2)])


def inject(what: str, step: str, count: int) -> None:
    """Arrange for a fault in this process."""
    if what == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (count, count))
        return
    if step == "half a write":
        os.write = half_a_write(os.write)
    names = {
        "create": (files, "_locked_temporary"),
        "half a write": (os, "write"),
        "write": (files, "_write_out"),
        "fsync": (os, "fsync"),
        "rename": (os, "replace"),
        "fsync folder": (files, "fsync_folder"),
    }
    place, name = names[step]
    setattr(place, name, after(getattr(place, name), count, SIGNALS[what]))


def child(main: Main, request: dict[str, Any]) -> int:
    """What a forked process does."""
    os.environ.update(request["env"])
    log = os.open(request["log"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(log, 1), os.dup2(log, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    if request["fault"]:
        inject(*request["fault"])
    return main(request["argv"])


def serve(main: Main) -> None:
    """Answer until the input ends."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        elif not (answer := os.fork()):
            try:
                code = child(main, request)
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(code)
            except BaseException:  # noqa: BLE001 - a forked process must not go on as a second server
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(99)
        print(answer, flush=True)
