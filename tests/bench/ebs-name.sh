#!/bin/bash
# For udev, in place of EC2's ebsnvme-id: the name that a volume is attached
# under.  EBS has it in the controller's vendor data, QEMU has no such data: the
# lab is asked.  No Python: udev waits, and on an emulated CPU it takes a second
# to start.
#
#   ebs-name.sh nvme1n1

read -r serial <"/sys/block/$1/device/serial" || exit
body="{\"volume_id\": \"vol-${serial#vol}\"}"
exec 3<>/dev/tcp/169.254.42.1/80 || exit
printf 'POST /lab/device_of HTTP/1.0\r\nHost: lab\r\nContent-Length: %d\r\n\r\n%s' \
    ${#body} "$body" >&3
# Head, an empty line, one line; there is no end of file as long as 3 is open.
while read -r -t 20 -u 3 line && [ "$line" != $'\r' ]; do :; done
read -r -t 20 -u 3 name
[[ $name =~ ^\"/dev/([a-z0-9]+)\"$ ]] && echo "${BASH_REMATCH[1]}"
