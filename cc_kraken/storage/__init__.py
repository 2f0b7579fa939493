"""What changes a volume, or what is on it: make, repair, enlarge, mount, let go.

Knows: which conditions must hold right before each change, and how to check afterwards.
Must not know: why a change is wanted (:mod:`cc_kraken.decide`), or when it is due
(:mod:`cc_kraken.act`).
"""
