#!/usr/bin/env bash
# mmpOS starts the miner through this, with options of its own: --pool, --user (wallet or wallet.worker), --password, --algo
# and --api-port. Other arguments are the miner's.
cd "$(dirname "$(readlink -f "$0")")" || exit 1

port=9833
arguments=()
while (($#)); do
    option=$1 value=${2-}
    shift
    case $option in
    --pool) arguments+=("--pool=$value") ;;
    --user)
        arguments+=("--wallet=${value%%.*}")
        [[ $value != *.* ]] || arguments+=("--worker-name=${value#*.}")
        ;;
    --password | --algo) ;; # the miner has no use for them
    --api-port) [[ $value == 0 ]] || port=$value ;;
    *)
        arguments+=("$option")
        continue
        ;;
    esac
    if (($#)); then shift; fi
done
echo "$port" >api-port # for mmp-stats.sh
exec ./quantus-miner "--port=$port" "${arguments[@]}"
