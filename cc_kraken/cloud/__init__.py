"""The cloud: volumes, who holds them, attach and detach, tags.

Knows: EC2's API, its errors and its device names.
Must not know: what a volume is for, or what is on it.
"""
