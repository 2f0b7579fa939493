"""The lab: a virtual EC2 on loopback, for tests and for people."""
