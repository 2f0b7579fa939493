"""What is on a disk: blank, known, half made, or unknown.

Knows: superblocks, the places where structures live, and the intent record.
Must not know: what is wanted.  It only reads volumes; the rehearsal makes a sparse
file to learn from.
"""
