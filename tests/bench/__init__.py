"""How fast this package is beside ``apolo-sdk``: ``python tests/bench [ROW ...]``."""
