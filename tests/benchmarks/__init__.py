"""Tests of the benchmarks: parsers, tables and rules; what they measure is not tested here."""
