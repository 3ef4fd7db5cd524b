"""Make a release: wheel and sdist, built twice alike, bill of materials, checksums, signature.

python deploy/release/release.py make dist --key ~/.ssh/release     # what `make release` runs
python deploy/release/release.py check dist --signers release-signers

``make`` refuses sources that differ from their revision. The signature is OpenSSH's (``ssh-keygen -Y``), so
whoever takes the files checks it with a tool that is there already; ``--key`` is a private key file or the
public one of an agent.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from licences import needed
from making import ROOT, NotMade, digest, run

SUMS = "SHA256SUMS"
NAMESPACE = "medveil-release"
"""Keeps a signature made for something else from being taken for one of a release."""


def built(folder: Path, source: Path) -> dict[str, bytes]:
    """Wheel and sdist of ``source``, by name."""
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=source)
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def packages(made: Path) -> dict[str, bytes]:
    """Wheel and sdist of the revision that is checked out, built from two clones in two places.

    Raises NotMade: the sources were changed, or the two differ.
    """
    if changed := run("git", "status", "--porcelain").decode(errors="replace").splitlines():
        named = ", ".join(line[3:] for line in changed[:5]) + (" …" if len(changed) > 5 else "")
        raise NotMade(
            f"The sources differ from their revision ({named}). Commit or put aside what was changed."
        )
    found = []
    for name in ("one", "another"):
        clone = made / name / "medveil"
        run("git", "clone", "--quiet", "--no-hardlinks", ROOT, clone)
        found.append(built(made / name / "built", clone))
    one, another = found
    if one != another:
        raise NotMade(f"Two builds differ: {', '.join(n for n in one if one[n] != another.get(n))}.")
    return one


def bill_of_materials(revision: str) -> bytes:
    """CycloneDX JSON of what a full installation needs, with versions and licences, without addresses."""
    whole = json.loads(
        run(sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", sys.executable)
    )
    wanted = set(needed())
    kept = [part for part in whole["components"] if part["name"].lower().replace("_", "-") in wanted]
    refs = {part["bom-ref"] for part in kept}
    for part in kept:
        part.pop("externalReferences", None)
    whole["components"] = kept
    whole["dependencies"] = [
        {**d, "dependsOn": [ref for ref in d.get("dependsOn", ()) if ref in refs]}
        for d in whole.get("dependencies", ())
        if d["ref"] in refs
    ]
    whole.setdefault("metadata", {})["component"] = {
        "type": "application",
        "name": "medveil",
        "version": revision,
    }
    return json.dumps(whole, indent=1, sort_keys=True).encode()


def make(target: Path, key: Path | None) -> Iterator[str]:
    """Write the release into ``target``, a folder that is not there yet; says each step."""
    if target.exists():
        raise NotMade(f"{target} is there already.")
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary)
        files = packages(made)
        yield "built twice, byte for byte the same"
        revision = run("git", "rev-parse", "HEAD").decode().strip()
        files["medveil.cdx.json"] = bill_of_materials(revision)
        yield "bill of materials written"
        files["lock.txt"] = (ROOT / "requirements" / "lock.txt").read_bytes()
        files[SUMS] = "".join(
            f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items()
        ).encode()
        ready = made / "ready"
        ready.mkdir()
        for name, data in files.items():
            (ready / name).write_bytes(data)
        if key is not None:
            run("ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", NAMESPACE, ready / SUMS)
            yield "checksums signed"
        shutil.copytree(ready, target)
    yield f"{target}: {', '.join(sorted(file.name for file in target.iterdir()))}"


def check(folder: Path, signers: Path | None) -> Iterator[str]:
    """Raise NotMade unless each file is as its checksum says and, with ``signers``, those are signed."""
    sums = (folder / SUMS).read_bytes()
    if signers is not None:
        signature = folder / f"{SUMS}.sig"
        if not signature.exists():
            raise NotMade("The checksums are not signed.")
        who = ("ssh-keygen", "-Y", "find-principals", "-s", signature, "-f", signers)
        name = run(*who, cwd=Path.cwd()).decode().split("\n")[0]
        ask = ("ssh-keygen", "-Y", "verify", "-f", signers, "-I", name, "-n", NAMESPACE, "-s", signature)
        run(*ask, cwd=Path.cwd(), given=sums)
        yield f"signed by {name}"
    named = dict(reversed(line.split("  ", 1)) for line in sums.decode().splitlines())
    for name, released in named.items():
        file = folder / name
        if not file.exists() or digest(file) != released:
            raise NotMade(f"{name} is not the file that was released. Use none of them.")
    yield f"{len(named)} files are as released"


def main() -> int:
    """Exit status 1 with one sentence where something is not right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=("make", "check"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--key", type=Path, help="sign with this SSH key")
    parser.add_argument("--signers", type=Path, help="allowed signers, as ssh-keygen reads them")
    given = parser.parse_args()
    steps = make(given.folder, given.key) if given.verb == "make" else check(given.folder, given.signers)
    try:
        for line in steps:
            print(line)
    except NotMade as wrong:
        print(f"No release: {wrong}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
