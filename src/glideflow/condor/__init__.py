# SPDX-License-Identifier: Apache-2.0
"""Everything HTCondor: the private pool, the gateway process, submit descriptions and the launcher of pilots.

Only `worker`, which runs in a process of its own, imports the bindings: they hold Python's global lock while they
wait for the network.
"""
