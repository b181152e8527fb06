"""Bytes to and from a platform."""
