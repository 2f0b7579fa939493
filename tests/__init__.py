"""Tests of cc_kraken."""
