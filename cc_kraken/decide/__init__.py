"""Decisions: what is wanted and what was found go in, a plan comes out.

Knows: every rule about attachments, arrays, filesystems and mounts.
Must not know: the time, files, devices, or EC2's API.  Nothing here does I/O,
so each rule is a row in a table test.  Of the packages below it uses what works on
text and values alone (the words of fstab, names of arrays).
"""
