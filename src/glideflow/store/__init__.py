# SPDX-License-Identifier: Apache-2.0
"""The PostgreSQL store: the only importer of psycopg and of alembic.

One module per table group; every function takes the open connection of the caller's transaction and is one
described query. State moves repeat the guards of `glideflow.domain.states`; triggers write each move as an event.
"""
