"""A package, so that test modules can share `tests.nets` and a new process can unpickle it."""
