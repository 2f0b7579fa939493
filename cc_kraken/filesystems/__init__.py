"""Filesystem types: one module for each, and one line of the registry.

Knows: what mkfs takes and writes, superblocks, checkers, growing, mount options.
Must not know: this machine, which volume is meant, or whether it may be written.
"""
