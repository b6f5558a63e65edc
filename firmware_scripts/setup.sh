#!/bin/sh
# Make or mend the virtual environment beside this file; nothing to do if it has what is required.
# Run by fedbus-setup.service, by "fedbus flash --ssh", or by hand. Wheels in wheels/ are enough:
# with them no network is used.
set -eu
home=$(cd "$(dirname "$0")" && pwd)
venv=$home/venv

cmp -s "$home/requirements.txt" "$venv/ready" && exit 0

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "python3 here is missing or older than 3.11: install one, or flash with --python" >&2
    exit 1
}
rm -f "$venv/ready"
python3 -m venv "$venv"
set -- install --quiet --disable-pip-version-check --no-cache-dir --requirement "$home/requirements.txt"
[ ! -d "$home/wheels" ] || set -- "$@" --no-index --find-links "$home/wheels"
"$venv/bin/python" -m pip "$@"
"$venv/bin/python" -c 'import msgpack, nacl.utils, numpy, paho.mqtt.client, zlib'
cp "$home/requirements.txt" "$venv/ready.new"
mv -f "$venv/ready.new" "$venv/ready"
