#!/bin/sh
# The text /memory/7 is one address, and its binary form depends on the library. @multiformats/multiaddr (npm)
# writes the decimal digits behind a length, multiaddr (PyPI) eight bytes in big-endian order, as multiaddr 0.18 for
# Rust does. The first does not read the other's bytes as that address. Whoever sends multiaddrs in binary form
# (identify, signed peer records) between the two has to know.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund @multiformats/multiaddr@13.0.3 >&2
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check multiaddr==0.2.0 >&2

cat >js.mjs <<'JS'
import { multiaddr } from '@multiformats/multiaddr'
const hex = (address) => Buffer.from(address.bytes).toString('hex')
console.log('js', hex(multiaddr('/memory/7')))
let read
try {
  read = multiaddr(Buffer.from('89060000000000000007', 'hex')).toString()
} catch (error) {
  read = error.name
}
console.log('js reads the eight bytes as', JSON.stringify(read))
JS
cat >py.py <<'PY'
from multiaddr import Multiaddr
print('python', Multiaddr('/memory/7').to_bytes().hex())
PY

echo '@multiformats/multiaddr 13.0.3, multiaddr (PyPI) 0.2.0'
{ node js.mjs && venv/bin/python py.py; } | tee seen
grep -qx 'js 89060137' seen
grep -qx 'python 89060000000000000007' seen
grep -qx 'js reads the eight bytes as "UnknownProtocolError"' seen
