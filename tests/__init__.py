"""Tests, importable as a package, so that areas share their samples."""
