#!/usr/bin/env bash
# HiveOS runs this in a screen session. To stop the miner, it closes the session or sends a signal; the miner itself takes a
# hangup for a request to reload its settings, so it gets SIGTERM instead. Log lines go to the screen and to HiveOS's log file.
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" || exit 1
# shellcheck source=/dev/null
. ./h-manifest.conf
mkdir -p "$(dirname "$CUSTOM_LOG_BASENAME")"
mapfile -t arguments <"$CUSTOM_CONFIG_FILENAME" || exit 1

./quantus-miner "${arguments[@]}" > >(trap '' HUP INT TERM && exec tee --append "$CUSTOM_LOG_BASENAME.log") 2>&1 &
miner=$!
trap 'kill -TERM "$miner" 2>/dev/null' HUP INT TERM
wait "$miner"
status=$?
# A signal ends the first wait; this one is for the miner's own end.
while kill -0 "$miner" 2>/dev/null; do
    wait "$miner"
    status=$?
done
exit "$status"
