"""Tests of the pure core, one file a module; `made.py` builds what they share."""
