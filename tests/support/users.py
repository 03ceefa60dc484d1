"""Running a function as another user of the machine, which needs root."""

import contextlib
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

NOBODY = 65534

_SHARED = Path(tempfile.gettempdir())  # which everyone may search
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def let_search(folder: Path) -> None:
    """Let everyone search a folder of a test, and all folders above it that the tests have made."""
    for each in (folder, *folder.parents):
        if each in (_SHARED, *_SHARED.parents):
            break
        each.chmod(0o755)


def as_nobody(function: Callable[[], object]) -> str:
    """Run `function` in a child process of the user "nobody"; return its result or its error as text.

    Modules that the function needs must be imported already, since the user may not read the environment.
    """
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            os.write(sender, _result_as_nobody(function).encode())
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


def _result_as_nobody(function: Callable[[], object]) -> str:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    try:
        return str(function())
    except BaseException:  # noqa: BLE001 - reported to the parent process
        return traceback.format_exc()
