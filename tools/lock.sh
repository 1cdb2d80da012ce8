#!/bin/sh
# Resolves requirements/*.txt anew: names, versions and hashes only, for every Python and platform that we support.
set -eu
cd "$(dirname "$0")/.."
cache=${CONCLAVE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/conclave}
uv=$(ls -t "$cache"/uv-*/bin/uv | head -n 1)
compile() { "$uv" pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-annotate --no-header "$@"; }
cpu="requirements/cpu.in --override requirements/cpu.overrides.txt"
compile requirements/uv.in -o requirements/uv.txt
compile requirements/go.in -o requirements/go.txt
compile pyproject.toml -o requirements/cli.txt
compile pyproject.toml --extra operator -o requirements/operator.txt
compile pyproject.toml --extra serving -o requirements/serving.txt
# shellcheck disable=SC2086
compile pyproject.toml $cpu -o requirements/local.txt
# shellcheck disable=SC2086
compile pyproject.toml $cpu --extra operator --extra dev -o requirements/dev.txt
