"""What a person or a service runs: fleet, peers, check, explain, wait, status.

Knows: how a status, a plan and an account look, and what cloud-init takes of a file.
Must not know: how a set comes up.  Each command asks the packages below.
"""
