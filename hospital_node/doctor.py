"""``medveil node doctor``: everything that a hospital's node depends on, looked at one by one."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509

from hospital_node.connecting import Look, look
from hospital_node.enrolment import line_to_aggregator
from hospital_node.settings import FILE, Node, NodeSettings
from hospital_node.transport import CLIENT_PAIR
from medveil.authority import certificates_in
from medveil.errors import Error, utc
from medveil.examined import Finding, disk, examined, memory, python
from medveil.identity import FRESHNESS_S, Identity
from medveil.private_files import OTHERS
from medveil.reachability import proxy_to
from medveil.shown import plain
from privacy.secagg.kernel import passes_in_use
from privacy.secagg.keystream import call_in_use, stream

MANIFEST = "manifest.csv"
SOON_S = 30 * 86_400.0


def authority_finding(pem: bytes) -> Finding:
    """Whether a pinned authority can still sign anything."""
    now, certificates = time.time(), certificates_in(pem)
    last = max(one.not_valid_after_utc.timestamp() for one in certificates)
    first = min(one.not_valid_before_utc.timestamp() for one in certificates)
    told = f"{len(certificates)} certificate{'s' if len(certificates) > 1 else ''}, until {utc(last)[:10]}"
    if not first <= now < last:
        ask = "Is this machine's clock right? If so, ask the consortium's admin for a new authority."
        return Finding("authority", f"{told}; the clock says {utc(now)}", ask)
    return Finding("authority", told)


def images_finding(folder: Path) -> Finding:
    """Whether the folder of images is there and can be read."""
    if not folder.is_dir():
        return Finding("images", f"there is no folder '{plain(folder)}'", "Name the folder with --data.")
    if not os.access(folder, os.R_OK | os.X_OK):
        remedy = "Let this user read the folder and all in it: setfacl or chgrp, as docs/operator.md says."
        return Finding("images", f"this user may not read '{plain(folder)}'", remedy)
    if not (folder / MANIFEST).is_file():
        return Finding("images", f"{plain(folder)}; it has no {MANIFEST} yet")
    if not os.access(folder / MANIFEST, os.R_OK):
        return Finding("images", f"this user may not read its {MANIFEST}", f"Let this user read {MANIFEST}.")
    return Finding("images", f"{plain(folder)}, with {MANIFEST}")


def address_finding(settings: NodeSettings, authority: Path, seen: list[Look]) -> Finding:
    """Whether the aggregator answers, through the proxy, under the pinned authority.

    Args:
        seen: what was seen of it is added.
    Raises: BadProxy, Unreachable, ProxyRefused, WrongAuthority, CertificateRefused, AggregatorProblem.
    """
    proxy = proxy_to(settings.aggregator, settings.proxy)
    found = asyncio.run(look(settings.aggregator, authority, proxy))
    seen.append(found)
    through = f" through the proxy '{proxy.shown}'" if proxy else ""
    told = f"{plain(settings.aggregator, 200)} answers{through}, under the pinned authority"
    left_s = found.certificate_ends - time.time()
    if left_s < SOON_S:
        told += f"; its certificate ends in {left_s / 86_400:.0f} days (the admin renews it)"
    return Finding("address", told)


def clock_finding(found: Look) -> Finding:
    """This machine's clock against the aggregator's."""
    if found.ahead_s is None:
        return Finding("clock", f"{utc()}; the aggregator tells no time")
    behind = "behind" if found.ahead_s > 0 else "ahead of"
    off = f"{abs(found.ahead_s):.0f} s {behind} the aggregator's" if abs(found.ahead_s) >= 2 else "in step"
    remedy = (
        f"Set both clocks by NTP; requests that are {FRESHNESS_S // 60} minutes off are refused."
        if abs(found.ahead_s) > FRESHNESS_S / 5
        else ""
    )
    return Finding("clock", f"{utc()}, {off}", remedy)


def torch_and_gpu() -> Finding:
    """PyTorch, and the GPU that it sees."""
    try:
        import torch
    except ImportError:
        return Finding(
            "torch", "missing", 'A node needs it. Install it: pip install "medveil[node]", or make install.'
        )
    if not torch.cuda.is_available():
        return Finding("torch", f"{torch.__version__}, CUDA: no (training runs on the processor)")
    free, total = torch.cuda.mem_get_info()
    told = f"{torch.cuda.get_device_name(0)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    return Finding("torch", f"{torch.__version__}, CUDA: {told}")


def masking() -> Finding:
    """By what masks are made on this machine. Raises: SelfTestFailed, which is a finding, too."""
    stream(bytes(32))
    return Finding("masking", f"AES by OpenSSL's {call_in_use()}; passes over the vector: {passes_in_use()}")


def has_node(folder: Path) -> bool:
    """Whether there is anything to look at but the machine."""
    return (folder / FILE).exists()


def examine(folder: Path) -> Iterator[Finding]:
    """Look at one thing after the other; a check that itself fails is a finding, not a crash."""
    yield from examined((("versions", versions), ("torch", torch_and_gpu), ("masking", masking)))
    try:
        node = Node.load(folder)
    except Error as error:
        yield from examined((("memory", memory), ("disk", lambda: disk(_nearest(folder)))))
        yield Finding("node", error.what, f"{error.remedy} [{error.code}]")
        return
    seen: list[Look] = []
    yield from examined(
        (
            ("node", lambda: node_finding(node)),
            ("disk", lambda: disk(folder)),
            ("images", lambda: images_finding(node.settings.data)),
            ("manifest", lambda: manifest_finding(node.settings.data)),
            ("memory", lambda: memory_finding(node)),
            *([("ranks", lambda: ranks_finding(node))] if node.settings.ranks else []),
            ("authority", lambda: authority_finding(node.authority.read_bytes())),
            ("address", lambda: address_finding(node.settings, node.authority, seen)),
        )
    )
    if (folder / CLIENT_PAIR).exists():
        yield from examined([("certificate", lambda: certificate_finding(folder / CLIENT_PAIR))])
    if seen:
        yield clock_finding(seen[0])
        yield from examined([("enrolment", lambda: enrolment_finding(node))])


def _nearest(folder: Path) -> Path:
    """The folder itself, or the one that it would be made in."""
    return next(one for one in (folder.absolute(), *folder.absolute().parents) if one.is_dir())


def versions() -> Finding:
    """What runs here."""
    from importlib.metadata import version

    found = python()
    return Finding("versions", f"MedVeil {version('medveil')}, Python {found.found}", found.remedy)


def node_finding(node: Node) -> Finding:
    """Whether the node's own files are there, can be read, and are nobody else's."""
    try:
        Identity.load(node.settings.name, node.key)
    except ValueError:
        found = f"{node.key.name} holds no key"
        return Finding("node", found, "Restore the node's folder from a backup; the key cannot be made anew.")
    told = f"{node.settings.name} in {plain(node.folder)}"
    closed = [node.folder, node.key, *(path for path in (node.journal, node.ledger) if path.exists())]
    for path in closed:
        if not os.access(path, os.W_OK):
            return Finding("node", f"{told}: this user may not write {path.name}", "Run it as its own user.")
    opened = [path.name for path in (node.folder, node.key) if stat.S_IMODE(path.stat().st_mode) & OTHERS]
    if opened:
        remedy = f"chmod 700 {plain(node.folder)}; chmod 600 {plain(node.key)}"
        return Finding("node", f"{told}: other users have rights to {' and '.join(opened)}", remedy)
    return Finding("node", told)


def manifest_finding(folder: Path) -> Finding:
    """How many lines the manifest has."""
    from hospital_node.demand import images_in

    if not (folder / MANIFEST).is_file():
        remedy = f"Make one: medveil node manifest (docs/operator.md says what {MANIFEST} holds)."
        return Finding("manifest", f"there is no {MANIFEST}", remedy)
    with open(folder / MANIFEST, "rb") as file:
        file.read(1)
    lines = images_in(folder)
    remedy = "" if lines else "Fill it; 'medveil node check' reads it and names what cannot be used."
    return Finding("manifest", f"{lines:,} lines", remedy)


def memory_finding(node: Node) -> Finding:
    """This machine's memory against what the approved plans take."""
    from hospital_node.demand import demand_of, memory_limit
    from hospital_node.operator import opened

    limit = memory_limit(node.settings.policy)
    told = f"{limit / 1e9:.1f} GB for a plan"
    if not node.journal.exists():
        return Finding("memory", f"{told}; none is approved")
    with opened(node) as journal:
        plans = [plan for plan, _ in journal.approved()]
    asked = {plan.study.name: demand_of(plan, node.settings).memory_bytes for plan in plans}
    if not asked:
        return Finding("memory", f"{told}; none is approved")
    most = max(asked, key=lambda name: asked[name])
    told += f"; the largest approved one, {plain(most, 60)}, takes {asked[most] / 1e9:.1f} GB"
    remedy = "Use a machine with more, raise memory_gb in node.json, or keep images on disk (cache_gb)."
    return Finding("memory", told, remedy if asked[most] > limit else "")


def ranks_finding(node: Node) -> Finding:
    """Whether a training job could be written and handed in; none is."""
    ranks = node.settings.ranks
    assert ranks is not None
    folder, where = ranks.folder, "on this machine"
    if ranks.submit:
        where = f"by '{plain(ranks.submit[0], 60)}'"
        if shutil.which(ranks.submit[0]) is None:
            return Finding("ranks", f"{where}: there is no such command", "Correct 'submit' in node.json.")
    if folder is not None and not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        remedy = "Make the folder for this user, at the same path on every machine of a job."
        return Finding("ranks", f"this user may not write '{plain(folder)}'", remedy)
    if ranks.interface is not None and ranks.interface not in dict(socket.if_nameindex()).values():
        remedy = "Correct 'interface' in node.json, if the job's machines do not have it either."
        return Finding("ranks", f"this machine has no network card '{ranks.interface}'", remedy)
    return Finding("ranks", f"{ranks.count} share each step of training, started {where}")


def certificate_finding(pair: Path) -> Finding:
    """The node's TLS client certificate, where there is one."""
    left_s = x509.load_pem_x509_certificate(pair.read_bytes()).not_valid_after_utc.timestamp() - time.time()
    if left_s <= 0:
        return Finding("certificate", "this node's is over", "Get another one: medveil node certificate.")
    return Finding("certificate", f"this node's ends in {math.ceil(left_s / 86_400)} days; it renews itself")


def enrolment_finding(node: Node) -> Finding:
    """Whether the aggregator knows this node's key."""
    found = asyncio.run(_offers(node))
    return Finding("enrolment", f"known to the aggregator; plans on offer: {found}")


async def _offers(node: Node) -> int:
    async with line_to_aggregator(node) as line:
        return len((await line.offers()).offers)
