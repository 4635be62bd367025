# SPDX-License-Identifier: Apache-2.0
"""The commands `up`, `down`, `status` and `doctor`, each as an app of its own that is loaded when it is used."""

from cyclopts import App

from glideflow.cli.service import register_service

_app = App(name="glideflow", result_action="return_value")
register_service(_app)

up = _app["up"]
down = _app["down"]
status = _app["status"]
doctor = _app["doctor"]
