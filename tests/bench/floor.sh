#!/bin/bash
# The floor: what the module does, without a single check.  Sets side by side,
# the volumes of each attached at the same time, the API called by hand.
#
#   floor.sh make|take INSTANCE SET:LEVEL:TYPE:PATH:NAME=VOLUME,… …
#
# make: array and filesystem are made; take: they are there already.
# API and SYS: where EC2 and sysfs are.  Last line: seconds, and CPU seconds of
# this process and its children.

API=${API:-169.254.42.1/80} SYS=${SYS:-/sys} STATE=${STATE:-/run}
exec 2>"$STATE/floor.log"
how=$1 instance=$2
shift 2
begun=$EPOCHREALTIME

attach() {
    local device=$1 volume=$2 body
    body="Action=AttachVolume&Version=2016-11-15&InstanceId=$instance&VolumeId=$volume&Device=$device"
    exec 3<>"/dev/tcp/$API"
    printf '%s\r\n' 'POST / HTTP/1.1' "Host: ${API%/*}" 'Connection: close' \
        'Authorization: AWS4-HMAC-SHA256 Credential=AKIAFLOOR/20260101/us-east-1/ec2/aws4_request, SignedHeaders=host, Signature=0' \
        'Content-Type: application/x-www-form-urlencoded' \
        "Content-Length: ${#body}" '' >&3
    printf %s "$body" >&3
    read -r -u 3 _
    exec 3>&-
}

disk_of() { # waits for the disk with this serial
    local serial=${1/-/} file found
    while :; do
        for file in "$SYS"/block/*/device/serial; do
            read -r found <"$file"
            if [ "$found" = "$serial" ]; then
                file=${file#"$SYS"/block/}
                disk=/dev/${file%%/*}
                [ -b "$disk" ] && return
            fi
        done
        read -r -t 0.05 _ <>/dev/fd/9
    done
}

bring_up() {
    local name level type path volumes volume pair disk disks=() target
    IFS=: read -r name level type path volumes <<<"$1"
    for pair in ${volumes//,/ }; do
        attach "/dev/${pair%%=*}" "${pair#*=}" &
    done
    wait
    for pair in ${volumes//,/ }; do
        disk_of "${pair#*=}"
        disks+=("$disk")
    done
    target=${disks[0]}
    if [ ${#disks[@]} -gt 1 ]; then
        target=/dev/md/floor-$name
        if [ "$how" = make ]; then
            mdadm --create "$target" --run --metadata=1.2 --homehost=any \
                --level="$level" --raid-devices=${#disks[@]} "${disks[@]}"
        else
            # udev may have been first
            mdadm --assemble "$target" "${disks[@]}"
            target=/dev/$(ls "/sys/block/${disks[0]#/dev/}/holders")
        fi
    fi
    if [ "$how" = make ]; then
        case $type in
        ext4) mkfs.ext4 -q -E nodiscard,lazy_itable_init=1,lazy_journal_init=1 "$target" ;;
        xfs) mkfs.xfs -q -K "$target" ;;
        esac
    fi
    mkdir -p "$path"
    mount -t "$type" "$target" "$path"
}

mkfifo -m 600 "$STATE/floor.$$"
exec 9<>"$STATE/floor.$$"
for one; do bring_up "$one" & done
wait
ended=$EPOCHREALTIME
rm -f "$STATE/floor.$$"
# minutes and seconds of this shell, then of its children
times >"$STATE/floor.times"
awk -v begun="$begun" -v ended="$ended" '
    { for (i = 1; i <= NF; i++) { split($i, t, /[ms]/); cpu += t[1] * 60 + t[2] } }
    END { printf "%.3f %.3f\n", ended - begun, cpu }' "$STATE/floor.times"
