# SPDX-License-Identifier: Apache-2.0
"""The YAML files that people write: read with the line of each key, and a sentence for everything that is wrong."""
