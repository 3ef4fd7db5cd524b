#!/bin/sh
# Pins every package with the hashes of all its wheels:
#   lock.txt        what `make install` takes: all rooms, and what developers need
#   aggregator.txt  an aggregator alone, with PostgreSQL, a bucket and a cluster: no torch
#   node.txt        a hospital's node alone, with 12-bit JPEG and DIMSE
#   build.txt       what makes our own wheel
#   deploy.txt      what the files under deploy/ are checked with
# All take the versions of lock.txt. torch is installed first and on its own (CPU and CUDA builds share the version,
# not the hash), so neither it nor the CUDA libraries that some of its builds name belong here. Needs `uv`.
set -eu
cd "$(dirname "$0")/.."
omit=$(mktemp); out=$(mktemp)
trap 'rm -f "$omit" "$out"' EXIT
compile() {
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-annotate --no-header --constraint requirements/constraints.txt "$@"
}
# written FILE WHAT...: the lock of that, without torch and what comes with it.
written() {
    file=requirements/$1; shift
    compile "$@" --output-file "$out" < /dev/null
    grep -oE '^(nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+|triton)' "$out" | sort -u > "$omit" || true
    set -- "$@" --no-emit-package torch
    while read -r name; do set -- "$@" --no-emit-package "$name"; done < "$omit"
    compile "$@" --output-file "$out"
    cp "$out" "$file"
    : > "$out"
}
written lock.txt pyproject.toml --extra dev
same="--constraint requirements/lock.txt"
written aggregator.txt pyproject.toml --extra postgres --extra s3 --extra cluster $same
written node.txt pyproject.toml --extra node --extra jpeg12 --extra dimse $same
written deploy.txt --group pyproject.toml:deploy $same
written build.txt --group pyproject.toml:build $same
written site.txt --group pyproject.toml:site $same
written release.txt --group pyproject.toml:release $same
