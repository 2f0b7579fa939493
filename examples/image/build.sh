#!/bin/sh
# Puts cc_kraken into an image. Run as root on a fresh instance (or in a chroot of
# its disk) of which the image is taken afterwards:
#
#   build.sh cloud-init-kraken_0.1.0_all.deb [image-defaults.cfg]
#   build.sh cloud-init-kraken-0.1.0-1.el9.noarch.rpm [image-defaults.cfg]
set -eu

package=${1:?usage: build.sh PACKAGE [DEFAULTS.cfg]}
defaults=${2:-}
# An absolute path: apt and dnf take a bare name for a package of their sources.
package=$(readlink -f "$package")

case $package in
*.deb)
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q update
    # What mdadm recommends is a mail server.
    apt-get -q -y install --no-install-recommends "$package" btrfs-progs
    ;;
*.el*.rpm)
    # boto3 is in EPEL only.
    epel=https://dl.fedoraproject.org/pub/epel
    rpm -q epel-release ||
        dnf -y install "$epel/epel-release-latest-$(rpm -E '%{rhel}').noarch.rpm"
    dnf -y install "$package"
    ;;
*.rpm)
    dnf -y install "$package"
    ;;
esac

if [ -n "$defaults" ]; then
    # An image with a mistake in it would be noticed at its first boot.
    cc-kraken check "$defaults"
    install -m 0644 "$defaults" /etc/cloud/cloud.cfg.d/50-kraken-defaults.cfg
fi

# dnf installs the package whatever its script says, so ask.
cc-kraken enable --check

# Nothing of this machine may be in the image.
cloud-init clean --logs --machine-id
