#!/bin/sh
# What the image is made of: the locked requirements in a virtual environment, and the inner loops compiled.
# Usage: build.sh SOURCE VENV, where SOURCE is the code and VENV the environment to make.
set -eu
source=$1
venv=$2

python3 -m venv "$venv"
"$venv/bin/python" -m pip install --no-cache-dir --require-hashes -r "$source/requirements.txt"

# The compiler's own needs stay out of the image.
python3 -m venv /tmp/compiler
/tmp/compiler/bin/python -m pip install --no-cache-dir --require-hashes -r "$source/requirements-build.txt"
cd "$source"
/tmp/compiler/bin/python setup.py --quiet build_ext --inplace
rm -rf /tmp/compiler build
"$venv/bin/python" -c 'from providers import hot; print("Compiled loops:", hot.state())'
