"""Commands as programs, for scripts that call them by name.

A server runs the commands, so that torch is imported once and not in each of them.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from support.paths import ROOT
from support.processes import wait_until

CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = json.dumps([{name!r}, sys.argv[1:], os.getcwd()]).encode()
    socket.send_fds(server, [request], [1, 2])
    sys.exit(int(server.recv(99)))
"""


@contextlib.contextmanager
def installed_programs(folder: Path, names: Sequence[str]) -> Iterator[None]:
    """Create programs mil-NAME in `folder` that run the commands of this source tree within the block."""
    address = folder / "socket"
    for name in names:
        program = folder / f"mil-{name}"
        program.write_text(CLIENT.format(python=sys.executable, address=str(address), name=name))
        program.chmod(0o755)
    argv = [sys.executable, str(Path(__file__).with_name("program_server.py")), str(address)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    with subprocess.Popen(argv, env=environment) as server:
        try:
            wait_until(lambda: address.exists() or server.poll() is not None)
            yield
        finally:
            server.kill()
