#!/bin/sh
# The text /http-path/a%2Fb (multiformats/multiaddr, protocol 481) has two binary forms: @multiformats/multiaddr (npm)
# writes the path "/a/b", with a slash in front that the text has not, and multiaddr (PyPI) writes "a/b". Both print
# the text again as it was given, so only the bytes show it.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund @multiformats/multiaddr@13.0.3 >&2
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check multiaddr==0.2.0 >&2

cat >js.mjs <<'JS'
import { multiaddr } from '@multiformats/multiaddr'
const address = multiaddr('/http-path/a%2Fb')
console.log('js', Buffer.from(address.bytes).toString('hex'), address.toString())
JS
cat >py.py <<'PY'
from multiaddr import Multiaddr
address = Multiaddr('/http-path/a%2Fb')
print('python', address.to_bytes().hex(), address)
PY

echo '@multiformats/multiaddr 13.0.3, multiaddr (PyPI) 0.2.0'
{ node js.mjs && venv/bin/python py.py; } | tee seen
grep -qx 'js e103042f612f62 /http-path/a%2Fb' seen
grep -qx 'python e10303612f62 /http-path/a%2Fb' seen
