#!/bin/sh
# Writes requirements/lock.txt: every package but torch, pinned with the hashes of all its wheels.
# torch is installed first and on its own (CPU and CUDA builds share the version, not the hash), so
# neither it nor the CUDA libraries that some of its builds name belong here. Needs `uv`.
set -eu
cd "$(dirname "$0")/.."
omit=$(mktemp); out=$(mktemp)
trap 'rm -f "$omit" "$out"' EXIT
compile() {
    uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-annotate --no-header --constraint requirements/constraints.txt "$@"
}
compile --quiet --output-file "$out"
grep -oE '^(nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+|triton)' "$out" | sort -u > "$omit" || true
set -- --no-emit-package torch
while read -r name; do set -- "$@" --no-emit-package "$name"; done < "$omit"
compile --quiet "$@" --output-file requirements/lock.txt
