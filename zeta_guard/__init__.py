"""ZETA Guard: a Zero Trust gateway for the German health network (TI 2.0)."""

__version__ = "0.1.0"
