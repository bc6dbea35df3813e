#!/usr/bin/env bash
# HiveOS sources this when a flight sheet is applied. It writes the miner's arguments, one a line.

write_arguments() {
    local pool
    echo "--port=$CUSTOM_API_PORT"
    for pool in $CUSTOM_URL; do
        echo "--pool=$pool"
    done
    # The template is %WAL% or %WAL%.%WORKER_NAME%; HiveOS has put in both. No address has a dot in it.
    [[ -z $CUSTOM_TEMPLATE ]] || echo "--wallet=${CUSTOM_TEMPLATE%%.*}"
    [[ $CUSTOM_TEMPLATE != *.* ]] || echo "--worker-name=${CUSTOM_TEMPLATE#*.}"
    # The extra arguments come last, so that they win. xargs splits them at white space and understands quotes.
    [[ -z $CUSTOM_USER_CONFIG ]] || xargs printf '%s\n' <<<"$CUSTOM_USER_CONFIG"
}
write_arguments >"$CUSTOM_CONFIG_FILENAME"
unset -f write_arguments
chmod 600 "$CUSTOM_CONFIG_FILENAME" # they may contain tokens
