#!/bin/sh
# Puts cc_kraken into an image. Run as root on a fresh Debian instance (or in a
# chroot of its disk) of which the image is taken afterwards:
#
#   build.sh cloud-init-kraken_0.1.0_all.deb [image-defaults.cfg]
set -eu

deb=${1:?usage: build.sh PACKAGE.deb [DEFAULTS.cfg]}
defaults=${2:-}
export DEBIAN_FRONTEND=noninteractive

apt-get -q update
# An absolute path: apt takes a bare name for a package of its sources. What mdadm
# recommends is a mail server.
apt-get -q -y install --no-install-recommends "$(readlink -f "$deb")" btrfs-progs

if [ -n "$defaults" ]; then
    # An image with a mistake in it would be noticed at its first boot.
    cc-kraken check "$defaults"
    install -m 0644 "$defaults" /etc/cloud/cloud.cfg.d/50-kraken-defaults.cfg
fi

# Nothing of this machine may be in the image.
cloud-init clean --logs --machine-id
