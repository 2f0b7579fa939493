"""What the operator asked for: the section, the tags, and the sets of a node.

Knows: the keys, their schema, which values are fit, and which of two sources
wins.
Must not know: what the machine looks like, or what will be done.
"""
