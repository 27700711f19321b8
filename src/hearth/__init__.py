"""Hearth: a Function-as-a-Service platform for one machine that grows into a cluster."""

__version__ = "0.1.0"
