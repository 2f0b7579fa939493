"""A run: look, decide, carry out, look again, report.

Knows: the order of things, waiting, and the steps of a plan.  Every byte that
this program writes to a volume is written from here.
Must not know: cloud-init, or why a step is right (:mod:`cc_kraken.decide`
says which steps there are).
"""
