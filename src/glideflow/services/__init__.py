# SPDX-License-Identifier: Apache-2.0
"""The use cases. Each opens its transactions, applies the domain's rules, and knows neither HTTP nor Prefect."""
