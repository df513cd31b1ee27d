#!/bin/sh
# Starts {{ name }}'s SuperNode: it waits for the owner's runs and trains on one folder of images.
#   SMDL_DATA_DIR    folder of images, one sub-folder per class (required)
#   SMDL_LEDGER_DIR  where the privacy budget is kept   [default: ledger, beside this script]
#   SMDL_COPIES_DIR  where this participant's own copy of the model goes   [default: copies, beside this script]
#   SMDL_NODE_PORT   local port for Flower's own processes   [default: 9094]
set -eu
: "${SMDL_DATA_DIR:?say which folder holds the images: SMDL_DATA_DIR=/path ./start.sh}"
export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 RAY_USAGE_STATS_ENABLED=0
umask 077
here=$(cd "$(dirname "$0")" && pwd)
data=$(cd "$SMDL_DATA_DIR" && pwd)
ledger="${SMDL_LEDGER_DIR:-$here/ledger}"
copies="${SMDL_COPIES_DIR:-$here/copies}"
export FLWR_HOME="$here/state"
mkdir -p "$FLWR_HOME/empty" "$ledger" "$copies"
copies=$(cd "$copies" && pwd)
SMDL_LEDGER_DIR=$(cd "$ledger" && pwd)
export SMDL_LEDGER_DIR
cd "$FLWR_HOME/empty"

# The server lets nobody in whose key was not admitted yet, nor, for a minute after a crash, a node
# that it believes to be there still: Flower gives up then, and this script does not.
node=
trap 'kill -TERM "$node" 2>/dev/null; wait "$node"; exit 143' INT TERM HUP
while :; do
  flower-supernode \
    --root-certificates "$here/ca.crt" --superlink "{{ address }}" \
    --auth-supernode-private-key "$here/node.key" \
    --host 127.0.0.1 --port "${SMDL_NODE_PORT:-9094}" \
    --node-config "partition-id={{ number }} num-partitions={{ participants | length }} data-dir=\"$data\" node-key=\"$here/node.key\" copies-dir=\"$copies\"" &
  node=$!
  wait "$node" && exit 0
  echo "The SuperNode ended. If it was refused: has the owner admitted {{ name }}? Again in 10 s." >&2
  sleep 10 &
  node=$!
  wait "$node"
done
