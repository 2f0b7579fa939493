"""cloud-init: its stages, its datasource, its lists of modules, its schema.

Knows: how cloud-init starts us, what it has merged, and who this instance is.
Must not know: how a set comes up.  It hands a section and an identity to
:mod:`cc_kraken.act` and tells cloud-init how that ended.
"""
