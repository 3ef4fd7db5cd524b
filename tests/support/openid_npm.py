"""npm's oidc-provider, a certified OpenID provider, as a process over TLS. Skipped by name without it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aggregator.access.tls import make_certificates
from medveil_research.ports import free_port

PLACE = Path(sys.prefix) / "oidc-provider"
INSTALL = "this needs node 20, npm and the provider: make oidc-provider"
CLIENT, SECRET = "medveil", "never-in-the-settings-0123456789"
PROGRAM = """
import https from 'node:https';
import fs from 'node:fs';
import Provider from 'oidc-provider';
const told = JSON.parse(fs.readFileSync(process.argv[2]));
const provider = new Provider(told.issuer, {
  clients: [{
    client_id: told.client, client_secret: told.secret, redirect_uris: [told.redirect],
    response_types: ['code'], grant_types: ['authorization_code'],
  }],
  pkce: { required: () => true },
  claims: { openid: ['sub'], profile: ['name'], roles: ['roles'] },
  scopes: ['openid', 'profile', 'roles'],
  conformIdTokenClaims: false,
  features: { devInteractions: { enabled: true } },
  findAccount: async (ctx, id) => ({
    accountId: id,
    claims: async () => ({ sub: id, name: `Dr. ${id}`, roles: told.roles[id] || [] }),
  }),
});
const tls = { key: fs.readFileSync(told.key), cert: fs.readFileSync(told.certificate) };
https.createServer(tls, provider.callback()).listen(told.port, '127.0.0.1');
"""


@dataclass
class NpmProvider:
    """It runs."""

    issuer: str
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def settings(self) -> dict[str, Any]:
        """As ``aggregator.json`` names it."""
        return {
            "name": "npm",
            "title": "Hospital account",
            "issuer": self.issuer,
            "client_id": CLIENT,
            "secret_file": "npm.secret",
            "scopes": ["openid", "profile", "roles"],
            "authority": str(self.folder / "ca.pem"),
            "rules": [
                {"claim": "roles", "value": "medveil-admin", "role": "admin"},
                {"claim": "roles", "value": "medveil-reader", "role": "researcher", "name": "reader"},
            ],
        }

    def stop(self) -> None:
        """As if it were down."""
        self.process.terminate()
        self.process.wait(30)


@contextmanager
def npm_provider(folder: Path, redirect: str, roles: dict[str, list[str]]) -> Iterator[NpmProvider]:
    """One that sends browsers back to ``redirect``; ``roles`` are those of its people, by name."""
    node = shutil.which("node")
    if node is None or not (PLACE / "node_modules" / "oidc-provider").is_dir():
        assert not os.environ.get("MEDVEIL_SKIP_NOTHING"), INSTALL
        pytest.skip(INSTALL)
    folder.mkdir(parents=True, exist_ok=True)
    make_certificates(folder, ("localhost", "127.0.0.1"))
    port = free_port()
    issuer = f"https://localhost:{port}"
    told = {
        "issuer": issuer,
        "port": port,
        "client": CLIENT,
        "secret": SECRET,
        "redirect": redirect,
        "roles": roles,
    }
    told |= {"key": str(folder / "server.key"), "certificate": str(folder / "server.pem")}
    (folder / "told.json").write_text(json.dumps(told))
    (folder / "node_modules").symlink_to(PLACE / "node_modules")
    (folder / "provider.mjs").write_text(PROGRAM)
    with open(folder / "provider.log", "wb") as log:
        process = subprocess.Popen(
            [node, str(folder / "provider.mjs"), str(folder / "told.json")],
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, (folder / "provider.log").read_text()
            assert time.monotonic() < deadline, (folder / "provider.log").read_text()
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield NpmProvider(issuer, folder, process)
    finally:
        process.terminate()
        process.wait(30)
