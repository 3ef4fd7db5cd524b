"""Make a folder from which MedVeil is installed without a network.

python deploy/release/bundle.py bundle --for node     # or aggregator, researcher; what `make bundle` runs

It holds every package as a wheel, their hashes, and ``install.sh``, which a user without rights runs on the
other machine. Build it on a machine of the same kind: the same processor family, the same Python version.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from making import ROOT, NotMade, digest, run

LOCKS = {"aggregator": "aggregator.txt", "node": "node.txt", "researcher": "lock.txt"}
"""What each of them installs; a researcher takes all extras."""
INSTALL = """\
#!/bin/sh
# Installs MedVeil from this folder, without a network, into the one that is named: sh install.sh /opt/medveil
set -eu
target=${{1:?Name the folder to install into, e.g. sh install.sh "$HOME/medveil"}}
python=${{PYTHON:-python3}}
case $target in /*) ;; *) target=${{PWD%/}}/$target ;; esac
cd "$(dirname "$0")"
command -v "$python" > /dev/null || {{
    echo "There is no $python here. Name a Python {python}: PYTHON=python{python} sh install.sh $target" >&2
    exit 1
}}
have=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ "$have" != "{python}" ]; then
    echo "These packages are for Python {python}; $python is $have. Name another:" >&2
    echo "PYTHON=python{python} sh install.sh $target" >&2
    exit 1
fi
if [ -e "$target" ]; then
    echo "$target is there already. Nothing was changed." >&2
    exit 1
fi
sha256sum --check --quiet SHA256SUMS || {{
    echo "A file is missing or is not the one that was bundled (above). Nothing was installed." >&2
    echo "Copy the folder again." >&2
    exit 1
}}
trap 'rm -rf "$target"' EXIT
"$python" -m venv "$target"
"$target/bin/pip" install --quiet --disable-pip-version-check --no-index --no-deps --find-links wheels \\
    --require-hashes -r requirements.txt
trap - EXIT
"$target/bin/medveil" --version
echo "Installed. Begin with: $target/bin/medveil doctor"
"""


def bundle(target: Path, whom: str, torch: str) -> int:
    """Write the bundle into ``target``, a folder that is not there yet; how many wheels it holds.

    Raises: NotMade: ``target`` exists, a package cannot be had, or has another hash than the lock's.
    """
    if target.exists():
        raise NotMade(f"{target} is there already.")
    with tempfile.TemporaryDirectory() as made:
        wheels = Path(made, "bundle", "wheels")
        wheels.mkdir(parents=True)
        get = (
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--only-binary",
            ":all:",
        )
        run(
            *get, "--require-hashes", "--no-deps", "--dest", wheels, "-r", ROOT / "requirements" / LOCKS[whom]
        )
        if whom != "aggregator":
            run(*get, "--constraint", ROOT / "requirements" / "constraints.txt", "--dest", wheels, torch)
        run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", wheels)
        files = sorted(wheels.glob("*.whl"))
        lines = []
        for file in files:
            name, version = file.name.split("-")[:2]
            lines.append(f"{name.replace('_', '-')}=={version} --hash=sha256:{digest(file)}\n")
        folder = wheels.parent
        (folder / "requirements.txt").write_text("".join(lines), encoding="ascii")
        python = f"{sys.version_info[0]}.{sys.version_info[1]}"
        (folder / "install.sh").write_text(INSTALL.format(python=python), encoding="ascii")
        listed = sorted(file for file in folder.rglob("*") if file.is_file())
        sums = "".join(f"{digest(file)}  {file.relative_to(folder)}\n" for file in listed)
        (folder / "SHA256SUMS").write_text(sums, encoding="ascii")
        shutil.copytree(folder, target)
    return len(files)


def main() -> int:
    """Exit status 1 with one sentence where there is no bundle."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--for", dest="whom", choices=sorted(LOCKS), default="node")
    parser.add_argument("--torch", default="torch==2.13.0", help="the torch to take, e.g. one with CUDA")
    given = parser.parse_args()
    try:
        count = bundle(given.folder, given.whom, given.torch)
    except NotMade as problem:
        print(f"No bundle: {problem}", file=sys.stderr)
        return 1
    print(f"{given.folder}: {count} wheels. On the other machine: sh install.sh FOLDER")
    return 0


if __name__ == "__main__":
    sys.exit(main())
