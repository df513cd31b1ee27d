#!/bin/sh
# Starts the owner's server (Flower SuperLink). Stop it with Ctrl-C or SIGTERM.
#   SMDL_HOME      the owner's home, with master key and registry   [default: ~/.smdl]
#   SMDL_DATA_DIR  the owner's test images, one sub-folder per class, for data = "imagefolder"
#   SMDL_BIND      address to listen at                             [default: 0.0.0.0]
#   SMDL_PORT      port to listen at                                [default: {{ port }}]
#   SMDL_PASSPHRASE_FILE  file whose first line opens the master key, if it is encrypted
set -eu
export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 RAY_USAGE_STATS_ENABLED=0
umask 077
here=$(cd "$(dirname "$0")" && pwd)
export FLWR_HOME="$here/state/flower" SMDL_HOME="${SMDL_HOME:-$HOME/.smdl}"
if [ -n "${SMDL_DATA_DIR:-}" ]; then
  SMDL_DATA_DIR=$(cd "$SMDL_DATA_DIR" && pwd)
  export SMDL_DATA_DIR
fi
mkdir -p "$FLWR_HOME" "$here/state/empty"
cd "$here/state/empty"
exec flower-superlink \
  --ssl-ca-certfile "$here/ca.crt" --ssl-certfile "$here/server.crt" \
  --ssl-keyfile "$here/server.key" --enable-supernode-auth \
  --database "$here/state/superlink.db" --disable-runtime-dependency-installation \
  --host "${SMDL_BIND:-0.0.0.0}" --port "${SMDL_PORT:-{{ port }}}"
