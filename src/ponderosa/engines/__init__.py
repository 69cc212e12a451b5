"""Engines sample token ids from a policy; codecs turn text into ids and back. Importing this package loads no torch."""
