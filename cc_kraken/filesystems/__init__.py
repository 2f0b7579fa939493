"""Filesystem types: options, commands, labels, and how each one is checked.

Knows: what mkfs writes and where, for ext4, xfs and btrfs.
Must not know: which volume it works on, or whether it may.
"""
