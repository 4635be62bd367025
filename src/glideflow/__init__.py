# SPDX-License-Identifier: Apache-2.0
"""glideflow: workload management for groups that compute on HTCondor and the grid."""

__version__ = "0.1.0"
