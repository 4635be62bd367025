# SPDX-License-Identifier: Apache-2.0
"""The REST endpoint: the only importer of FastAPI. Routes translate between HTTP and the services, no more."""
