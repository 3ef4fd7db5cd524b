"""A process in a network of its own, from which one port of this machine can be reached and nothing else.

The wall is a network namespace (unshare -n). A unix socket leads through it: inside, this program listens on
the port and passes each connection to the socket; outside, :class:`Door` passes it on to the port.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

INSTALL = "network namespaces are not allowed here: unshare -n (util-linux) as root, or unshare -rn"
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def unshare() -> list[str] | None:
    """The command that makes such a namespace; None where none may be made."""
    for options in ("-n", "-rn"):
        command = [shutil.which("unshare") or "unshare", options]
        with contextlib.suppress(OSError):
            if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
                return command
    return None


def missing() -> bool:
    """Whether no wall can be built."""
    there = unshare() is not None
    assert there or not os.environ.get("MEDVEIL_SKIP_NOTHING"), INSTALL
    return not there


needs_wall = pytest.mark.skipif(missing(), reason=INSTALL)


def behind_a_wall(socket_path: Path, port: int, command: Sequence[str]) -> list[str]:
    """The same command, behind the wall."""
    found = unshare()
    assert found is not None
    return [*found, sys.executable, __file__, str(socket_path), str(port), *command]


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _both_ways(near: socket.socket, far: socket.socket) -> None:
    with near, far:
        back = threading.Thread(target=_copy, args=(far, near), daemon=True)
        back.start()
        _copy(near, far)
        back.join()


def _pass_on(listener: socket.socket, connect: object) -> None:
    """Each connection to the one that ``connect`` makes."""
    while True:
        try:
            near, _ = listener.accept()
        except OSError:
            return
        try:
            far = connect()  # type: ignore[operator]
        except OSError:
            near.close()
            continue
        threading.Thread(target=_both_ways, args=(near, far), daemon=True).start()


@contextlib.contextmanager
def door(socket_path: Path, port: int) -> Iterator[None]:
    """Outside: what comes through the wall goes to this port of the machine."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path))
        listener.listen(64)
        to = lambda: socket.create_connection(("127.0.0.1", port), 30)  # noqa: E731
        thread = threading.Thread(target=_pass_on, args=(listener, to), daemon=True)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def _loopback_up() -> None:
    with socket.socket() as any_socket:
        asked = struct.pack("16sh22x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(any_socket, SIOCGIFFLAGS, asked), 16)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))


def _inside(socket_path: str, port: int, command: list[str]) -> int:
    """Run a command, and be its way out, until it ends."""

    def through() -> socket.socket:
        far = socket.socket(socket.AF_UNIX)
        far.connect(socket_path)
        return far

    _loopback_up()
    with socket.create_server(("127.0.0.1", port)) as listener:
        threading.Thread(target=_pass_on, args=(listener, through), daemon=True).start()
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(_inside(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
