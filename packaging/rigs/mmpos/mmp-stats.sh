#!/usr/bin/env bash
# mmpOS runs this with the number of GPUs and the log file, neither of which is needed, and reads JSON from its output.
# In `air`, mmpOS wants accepted, invalid and rejected shares, as strings; HiveOS's order is accepted, rejected, invalid.
# The CPU comes first, with the bus id "cpu".
cd "$(dirname "$(readlink -f "$0")")" || exit 1
# shellcheck source=/dev/null
. ./mmp-external.conf

curl --silent --fail --max-time 3 "http://127.0.0.1:$(cat api-port)/hive-stats" |
    jq --compact-output --arg name "$EXTERNAL_NAME" '
        . as $stats
        | [.bus_numbers, .hs] | transpose | sort_by(.[0] != null) as $devices
        | {
            busid: [$devices[] | .[0] // "cpu"],
            hash: [$devices[] | .[1]],
            units: $stats.hs_units,
            air: [$stats.ar[0, 2, 1] | tostring],
            miner_name: $name,
            miner_version: $stats.ver
        }'
