"""Build the documentation as a site of plain files, which any web server or a browser alone can show.

python deploy/site/build.py site        # what `make site` runs

The pages stay plain Markdown, and their links those that a code host follows: they are laid out as in the
repository. A link, a heading or a page that is missing fails the build.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "docs", "deploy")


def lay_out(folder: Path) -> None:
    """Copy every page, and what pages link to, into ``folder`` as they lie in the repository."""
    folder.mkdir()
    for name in PAGES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)


def build(target: Path) -> int:
    """Write the site into ``target``, which is replaced; the exit status of mkdocs."""
    with tempfile.TemporaryDirectory() as made:
        shutil.copy(Path(__file__).with_name("mkdocs.yml"), made)
        lay_out(Path(made, "pages"))
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir"]
        return subprocess.run([*command, str(target.resolve())], cwd=made, check=False).returncode


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1])))
