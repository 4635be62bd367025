# SPDX-License-Identifier: Apache-2.0
"""`python -m glideflow_pilot`, in a checkout."""

import sys

from glideflow_pilot.main import main

sys.exit(main())
