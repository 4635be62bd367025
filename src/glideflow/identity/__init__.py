# SPDX-License-Identifier: Apache-2.0
"""Who asks: one authenticator, one `Identity`."""
