"""The cloud: volumes, who holds them, attach and detach, tags.

Knows: what a run asks of a cloud (``protocol``), and EC2's API, its errors and its
device names behind it.  Only ``boot`` chooses EC2.
Must not know: what a volume is for, or what is on it.
"""
