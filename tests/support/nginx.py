"""Our nginx files in a real nginx before real servers, with this machine's ports and folders."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from medveil_research.ports import free_port
from served import ROOT

NGINX = shutil.which("nginx") or next((p for p in ("/usr/sbin/nginx",) if Path(p).exists()), None)
INSTALL = "nginx is not installed: apt-get install nginx"
STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
INSTALL_STREAM = "nginx has no stream module: apt-get install libnginx-mod-stream"
PRETENDED = "X-Pretended-Address"
"""Header by which a test says which address it would have: loopback has no IPv6 networks to come from."""
MAIN = """
{user} daemon off; pid {here}/nginx.pid; error_log {here}/error.log; worker_processes 1;
events {{ worker_connections 512; }}
http {{
    client_body_temp_path {here}/body; proxy_temp_path {here}/proxy; fastcgi_temp_path {here}/f;
    lingering_timeout 1s; uwsgi_temp_path {here}/u; scgi_temp_path {here}/s;
    set_real_ip_from 127.0.0.1; real_ip_header {header};
    {site}
}}
"""

PASSING = """
{user} daemon off; pid {here}/nginx.pid; error_log {here}/error.log; worker_processes 1;
load_module {module};
events {{ worker_connections 512; }}
{site}
"""


def configuration(here: Path, front: int, backs: Sequence[int], authority: Path) -> str:
    """The shipped file, with a shorter deadline for heads; with two servers its second line is taken in."""
    site = (ROOT / "deploy" / "nginx.conf").read_text()
    changes = [
        ("listen 443 ssl", f"listen 127.0.0.1:{front} ssl"),
        ("    listen [::]:443 ssl;\n", ""),
        ("server 127.0.0.1:8443", f"server 127.0.0.1:{backs[0]}"),
        ("default 127.0.0.1:8443", f"default 127.0.0.1:{backs[0]}"),
        ("/etc/nginx/medveil/server.pem", f"{here}/front/server.pem"),
        ("/etc/nginx/medveil/server.key", f"{here}/front/server.key"),
        ("/etc/nginx/medveil/aggregator-ca.pem", str(authority)),
        ("/var/log/nginx/medveil.log", f"{here}/access.log"),
        ("client_header_timeout 10s", "client_header_timeout 1s"),
    ]
    if len(backs) > 1:
        changes.append(("# server 10.0.0.2:8443", f"server 127.0.0.1:{backs[1]}"))
    for old, new in changes:
        assert old in site, old
        site = site.replace(old, new)
    user = "user root;" if os.geteuid() == 0 else ""
    return MAIN.format(here=here, site=site, user=user, header=PRETENDED)


def passing(here: Path, front: int, back: int) -> str:
    """The shipped file that passes TLS through unopened, and what stands around it."""
    site = (ROOT / "deploy" / "nginx-stream.conf").read_text()
    for old, new in (
        ("listen 443;", f"listen 127.0.0.1:{front};"),
        ("        listen [::]:443;\n", ""),
        ("proxy_pass 127.0.0.1:8443", f"proxy_pass 127.0.0.1:{back}"),
    ):
        assert old in site, old
        site = site.replace(old, new)
    user = "user root;" if os.geteuid() == 0 else ""
    return PASSING.format(here=here, site=site, user=user, module=STREAM)


@contextlib.contextmanager
def through(here: Path, back: int) -> Iterator[int]:
    """nginx that passes TLS through to one server; its port."""
    port = free_port()
    with _running(here, port, passing(here, port, back)):
        yield port


@contextlib.contextmanager
def front_of(here: Path, backs: Sequence[int], authority: Path) -> Iterator[int]:
    """nginx over TLS with ``here/front``'s certificate; its port.

    Args:
        authority: of the servers behind.
    """
    port = free_port()
    with _running(here, port, configuration(here, port, backs, authority)):
        yield port


@contextlib.contextmanager
def _running(here: Path, port: int, configured: str) -> Iterator[None]:
    (here / "nginx.conf").write_text(configured)
    command = [str(NGINX), "-p", str(here), "-e", f"{here}/error.log", "-c", str(here / "nginx.conf")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, (here / "error.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(10)
