# SPDX-License-Identifier: Apache-2.0
"""Pure rules: no input or output, no clock, no database, no Prefect, no HTCondor."""
