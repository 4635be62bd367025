# SPDX-License-Identifier: Apache-2.0
"""The pilot: proves itself, pulls jobs, runs them and brings everything home. Standard library only."""

__version__ = "0.1.0"
