"""The core: the river from mesh.yaml to a plan and a status, as pure functions over frozen values.

Nothing here reads a file, a clock, a socket or a source of randomness; what a function needs is an argument. The order
of the stages, and who may import whom, is checked by tests/test_house.py.
"""
