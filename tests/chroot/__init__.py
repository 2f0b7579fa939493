"""cloud-init of each Debian release, run for real in a chroot."""
