"""The files that a run leaves on the machine: its status, the layout, the claim.

Knows: what each file says, who reads it, and when it goes.
Must not know: how a set comes up.
"""
