#!/bin/sh
# Says what a machine lacks before anything is downloaded. Used by the Makefile; PYTHON names the interpreter.
PYTHON=${PYTHON:-python3}
missing=""

command -v "$PYTHON" >/dev/null || { echo "error: no \`$PYTHON\` on the path

hint: on Debian: apt-get install python3 python3-pip g++ make" >&2; exit 1; }

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: trimtab needs Python 3.11 or later; \`$PYTHON\` is $("$PYTHON" -V)

hint: name another one: make PYTHON=python3.11 ..." >&2; exit 1; }

command -v "${CXX:-g++}" >/dev/null || missing="$missing g++"
"$PYTHON" -c 'import ensurepip' 2>/dev/null || "$PYTHON" -c 'import pip' 2>/dev/null || missing="$missing python3-pip"
"$PYTHON" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || missing="$missing python3-dev"

[ -z "$missing" ] || { echo "error: the native build needs$missing

hint: on Debian: apt-get install$missing" >&2; exit 1; }
