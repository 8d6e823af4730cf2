#!/usr/bin/env bash
# Makes or renews the virtual environment $VENV for this checkout; instant when nothing has changed.
#
# VENV      folder of the environment (.venv)
# EXTRAS    extras of setup.cfg to install (dev)
# PYTHON    the interpreter to use; by default the newest that works of VERSIONS
# VERSIONS  acceptable Python versions, best first (3.13 3.12 3.11)
# CONSTRAINTS  the lock: constraints.txt, or constraints-lowest.txt for the lowest versions that setup.cfg allows
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-.venv}
EXTRAS=${EXTRAS:-dev}
VERSIONS=${VERSIONS:-3.13 3.12 3.11}
CONSTRAINTS=${CONSTRAINTS:-constraints.txt}
stamp=$VENV/.score_sde_stamp

fail() { printf '\nerror: %s\n' "$*" >&2; exit 1; }

# What the environment depends on. Contents, not dates: a git checkout touches files without changing them.
wanted() { printf '%s\n' "$PWD" "$EXTRAS" "${PYTHON:-$VERSIONS}"; cksum setup.cfg pyproject.toml "$CONSTRAINTS" scripts/environment.sh; }

# Prints "3.13" if the interpreter runs, is an ordinary CPython that can install wheels, and its version is acceptable.
version_of() {
  "$1" - 2>/dev/null <<'PY' || true
import ctypes, ssl, sys, sysconfig, zlib
if sys.implementation.name == "cpython" and sys.maxsize > 2**32 and not sysconfig.get_config_var("Py_GIL_DISABLED"):
    print("%d.%d" % sys.version_info[:2])
PY
}

acceptable() { case " $VERSIONS " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

# Debian splits ensurepip into python3.x-venv; without it `python -m venv` fails half-way.
has_venv() { "$1" -c 'import venv, ensurepip' >/dev/null 2>&1; }

candidates() {  # of version $1, in the order in which to try them
  type -a -p "python$1" python3 python || true
  for folder in "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1"* "${UV_PYTHON_INSTALL_DIR:-$HOME/.local/share/uv/python}/cpython-$1."* \
    /usr /usr/local /opt/homebrew "/Library/Frameworks/Python.framework/Versions/$1" "${CONDA_PREFIX:-/nonexistent}"; do
    [ -x "$folder/bin/python$1" ] && echo "$folder/bin/python$1"
  done
  return 0
}

# Sets found to the newest interpreter that can make an environment, without_venv to the newest that lacks only venv.
find_python() {
  found='' without_venv=''
  if [ -n "${PYTHON:-}" ]; then
    version=$(version_of "$PYTHON")
    acceptable "$version" || fail "PYTHON=$PYTHON does not run or is not Python ${VERSIONS// /, } (it says '${version}')."
    if has_venv "$PYTHON"; then found=$PYTHON; else without_venv=$PYTHON; fi
    return 0
  fi
  for version in $VERSIONS; do
    while read -r candidate; do
      [ "$(version_of "$candidate")" = "$version" ] || continue
      if has_venv "$candidate"; then found=$candidate; return 0; fi
      [ -n "$without_venv" ] || without_venv=$candidate
    done < <(candidates "$version")
  done
}

create() {
  find_python
  rm -rf "$VENV"
  if [ -n "$found" ]; then
    "$found" -m venv "$VENV"
  elif command -v uv >/dev/null; then
    uv venv --seed --python "${without_venv:-${VERSIONS%% *}}" "$VENV"  # uv downloads a Python where there is none
  elif [ -n "$without_venv" ]; then
    version=$(version_of "$without_venv")
    fail "$without_venv has no venv module; install it (Debian, Ubuntu: apt install python$version-venv) or install uv."
  else
    fail "no working Python ${VERSIONS// /, } found; install one (or uv, which brings its own), or call make PYTHON=/path/to/python."
  fi
}

install() {
  local python=$VENV/bin/python requirement=".[$EXTRAS]" uv=(uv)
  if ! command -v uv >/dev/null; then
    "$python" -m pip install -qq --disable-pip-version-check -c "$CONSTRAINTS" uv || echo "uv is not available; using pip." >&2
    uv=("$python" -m uv)
  fi
  # pip reads indexes and certificates from its own settings, which uv does not see: hence the second attempt.
  "${uv[@]}" pip install --quiet --python "$python" -c "$CONSTRAINTS" -e "$requirement" ||
    "$python" -m pip install -qq --disable-pip-version-check -c "$CONSTRAINTS" -e "$requirement" ||
    fail "the packages could not be installed; the reason stands above (no network, or a full disk?)."
}

if [ -x "$VENV/bin/python" ] && [ -f "$stamp" ] && [ "$(wanted)" = "$(cat "$stamp")" ] && "$VENV/bin/python" -c '' 2>/dev/null; then
  exit 0
fi
echo "Setting up $VENV (once; about a minute) ..."
acceptable "$(version_of "$VENV/bin/python")" && [ -z "${PYTHON:-}" ] || create
rm -f "$stamp"
install
wanted >"$stamp"
"$VENV/bin/python" -c 'import sys, jax; print(f"Python {sys.version.split()[0]} with jax {jax.__version__} is ready in {sys.prefix}")'
