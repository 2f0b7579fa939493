"""This machine: disks, arrays, mounts, configuration files, commands.

Knows: sysfs, mountinfo, fstab, mdadm.conf, and how to run a program.
Must not know: sets, tags, EC2, or cloud-init.
"""
