"""Which packages an installation needs, and under which licences.

python deploy/release/licences.py            # print them; what docs/licences.md holds
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("node", "postgres", "s3", "cluster", "jpeg12", "dimse", "research")
"""What people install beside the core; ``dev`` is for developers only."""
ALLOWED = re.compile(
    r"(MIT|MIT-0|MIT-CMU|BSD|BSD-2-Clause|BSD-3-Clause|0BSD|Apache|Apache-2\.0|ISC|PSF-2\.0|Zlib|CC0-1\.0|HPND|BSL-1\.0"
    r"|MPL-2\.0|Unlicense|LLVM-exception)"
)
BY_NAME = {
    "psycopg": "LGPL-3.0-only: the extra postgres only, used as the library that it is and unchanged",
    "psycopg-binary": "LGPL-3.0-only: as psycopg",
}
"""Under another licence, and why it may be here."""
SPOKEN = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd": "BSD",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd license": "BSD",
    "dfsg approved": "",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "new bsd": "BSD-3-Clause",
    "python software foundation license": "PSF-2.0",
    "the mit license": "MIT",
    "the unlicense (unlicense)": "Unlicense",
}
"""What packages write where they give no SPDX expression, and what it is called there."""


def needed(package: str = "medveil", extras: tuple[str, ...] = EXTRAS) -> dict[str, Distribution]:
    """Every installed package that ``package`` with ``extras`` asks for, and what those ask for in turn."""
    found: dict[str, Distribution] = {}
    todo = [(package, frozenset(extras))]
    seen = set()
    while todo:
        item = todo.pop()
        if item in seen:
            continue
        seen.add(item)
        name, asked = item
        try:
            own = distribution(name)
        except PackageNotFoundError:
            continue
        found[name] = own
        for line in own.requires or ():
            wish = Requirement(line)
            if wish.marker is None or any(wish.marker.evaluate({"extra": extra}) for extra in {"", *asked}):
                todo.append((canonicalize_name(wish.name), frozenset(wish.extras)))
    found.pop(package, None)
    return dict(sorted(found.items()))


def licence(package: Distribution) -> str:
    """As SPDX calls it, where the package says it so that it can be read; else its own words; else empty."""
    meta = package.metadata
    expression = meta.get("License-Expression")
    if expression:
        return str(expression)
    classes = [
        line.split(" :: ")[-1] for line in meta.get_all("Classifier") or () if line.startswith("License ::")
    ]
    words = classes or [str(meta.get("License") or "").strip().split("\n")[0]]
    spoken = [SPOKEN.get(word.lower(), word) for word in words if word]
    return " OR ".join(dict.fromkeys(word for word in spoken if word))


def allowed(expression: str) -> bool:
    """Whether each licence that the expression names, of alternatives one, is in the list."""
    choices = re.split(r"\s+OR\s+", expression.replace("(", " ").replace(")", " ").strip())
    return any(
        all(ALLOWED.fullmatch(part) for part in re.split(r"\s+(?:AND|WITH)\s+", choice.strip()))
        for choice in choices
        if choice
    )


def page() -> str:
    """The table of docs/licences.md."""
    core, node = set(needed(extras=())), set(needed(extras=("node",)))
    lines = [
        "# Licences of what is installed",
        "",
        "MedVeil itself is under [Apache-2.0](../LICENSE). `python deploy/release/licences.py` writes this",
        "page from the installed packages. A test holds it, and each licence against those that are allowed.",
        "",
        "| package | licence | needed by |",
        "|---|---|---|",
    ]
    for name, package in needed().items():
        where = "every installation" if name in core else "a node" if name in node else "an extra"
        why = BY_NAME.get(name)
        lines.append(f"| {name} | {why or licence(package) or 'not stated'} | {where} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
    Path(__file__).resolve().parents[2].joinpath("docs", "licences.md").write_text(page(), encoding="utf-8")
