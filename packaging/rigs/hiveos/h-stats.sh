#!/usr/bin/env bash
# HiveOS sources this every few seconds, and takes the hash rate in kH/s from $khs and everything else from $stats.
# shellcheck source=/dev/null
. "$(dirname "${BASH_SOURCE[0]}")/h-manifest.conf"

stats=$(curl --silent --fail --max-time 3 "http://127.0.0.1:$CUSTOM_API_PORT/hive-stats") || stats=
# shellcheck disable=SC2034 # what HiveOS reads
khs=$(jq '.hs | add // 0' <<<"$stats" 2>/dev/null)
khs=${khs:-0}
stats=${stats:-null}
