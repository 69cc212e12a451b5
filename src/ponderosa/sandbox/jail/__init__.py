"""What runs inside the fork server of the `cpython` tier.

The server imports this package as top-level `jail`, without `ponderosa`, so that a forked child starts small.
Everything here uses the standard library and relative imports only.
"""
