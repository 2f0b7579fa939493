"""A run: look, decide, carry out, look again, report.

Knows: the order of things, waiting, and the steps of a plan.
Must not know: cloud-init, or why a step is right (:mod:`cc_kraken.decide` says which
steps there are).  What a step does to a volume is in :mod:`cc_kraken.storage`.
"""
