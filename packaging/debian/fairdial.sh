#!/bin/sh
# The installed configuration, unless another is named: by --config, which goes before it, or by the environment.
: "${FAIRDIAL_CONFIG=/etc/fairdial/fairdial.toml}"
export FAIRDIAL_CONFIG
exec /usr/lib/fairdial/bin/fairdial "$@"
