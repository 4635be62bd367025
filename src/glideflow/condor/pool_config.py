# SPDX-License-Identifier: Apache-2.0
"""The two HTCondor configurations of the private pool: its daemons' and its clients'.

Comments stand on their own lines: HTCondor takes a comment after a value for a part of it.
"""

from pathlib import Path

DOMAIN = "glideflow-pool"
"""Domain of the pool's accounts; the identity of the pilots is `pilot@glideflow-pool`."""
IDENTITY = f"pilot@{DOMAIN}"
_MEMORY_MB_PER_SLOT = 2000

_DAEMONS = """\
# Written by `glideflow pool up`; changes are lost at the next one.
RELEASE_DIR = /usr
BIN = $(RELEASE_DIR)/bin
SBIN = $(RELEASE_DIR)/sbin
LIB = $(RELEASE_DIR)/lib/condor
LIBEXEC = $(RELEASE_DIR)/libexec/condor
SHARE = $(RELEASE_DIR)/share/condor
ETC = /etc/condor
LOCAL_DIR = /pool
LOG = $(LOCAL_DIR)/log
SPOOL = $(LOCAL_DIR)/spool
EXECUTE = $(LOCAL_DIR)/execute
LOCK = $(LOCAL_DIR)/lock
RUN = $(LOCAL_DIR)/run
CRED_STORE_DIR = $(LOCAL_DIR)/cred
SEC_PASSWORD_DIRECTORY = $(LOCAL_DIR)/passwords.d
SEC_TOKEN_SYSTEM_DIRECTORY = $(LOCAL_DIR)/tokens.d

DAEMON_LIST = MASTER COLLECTOR NEGOTIATOR SCHEDD STARTD
CONDOR_HOST = 127.0.0.1
NETWORK_INTERFACE = 127.0.0.1
BIND_ALL_INTERFACES = False
# The root cannot look up the machine's name, and needs not.
NETWORK_HOSTNAME = pool.glideflow
USE_SHARED_PORT = True
SHARED_PORT_PORT = {port}
COLLECTOR_HOST = 127.0.0.1:{port}

# Other accounts of the machine reach the port too: everybody must prove who they are, even to read.
UID_DOMAIN = {domain}
TRUST_DOMAIN = {domain}
SEC_DEFAULT_AUTHENTICATION = REQUIRED
SEC_DEFAULT_ENCRYPTION = REQUIRED
SEC_DEFAULT_INTEGRITY = REQUIRED
SEC_READ_AUTHENTICATION = REQUIRED
SEC_DEFAULT_AUTHENTICATION_METHODS = FS, IDTOKENS
SEC_CLIENT_AUTHENTICATION_METHODS = FS, IDTOKENS
ALLOW_READ = *@{domain}
ALLOW_WRITE = *@{domain}
ALLOW_DAEMON = condor@{domain}
ALLOW_NEGOTIATOR = condor@{domain}
ALLOW_ADMINISTRATOR = root@{domain} condor@{domain}

# One slot that is divided as the pilots ask.
NUM_CPUS = {slots}
MEMORY = {memory_mb}
SLOT_TYPE_1 = 100%
NUM_SLOTS_TYPE_1 = 1
SLOT_TYPE_1_PARTITIONABLE = True
MOUNT_UNDER_SCRATCH =

# Few jobs, one machine: react at once, and trade durability for it.
NEGOTIATOR_INTERVAL = 1
NEGOTIATOR_MIN_INTERVAL = 1
NEGOTIATOR_CYCLE_DELAY = 0
SCHEDD_INTERVAL = 5
SCHEDD_MIN_INTERVAL = 1
UPDATE_INTERVAL = 5
CLAIM_WORKLIFE = 3600
CONDOR_FSYNC = False
RUNBENCHMARKS = 0
# Pilots fetch by themselves; asking HTCondor's plugins what they can costs seconds at the start of the pool.
ENABLE_URL_TRANSFERS = False
FILETRANSFER_PLUGINS =
# Without it a starter waits 5 s when its input files are still under way.
GUIDANCE_KEEP_CALM_AND = True
CONDOR_Q_ONLY_MY_JOBS = False
MAX_DEFAULT_LOG = 10 Mb
"""

_CLIENT = """\
# Written by `glideflow pool up`; changes are lost at the next one.
COLLECTOR_HOST = 127.0.0.1:{port}
SEC_TOKEN_DIRECTORY = {tokens}
SEC_CLIENT_AUTHENTICATION_METHODS = IDTOKENS
SEC_CLIENT_ENCRYPTION = REQUIRED
"""


def daemon_config(port: int, slots: int) -> str:
    """Return the configuration of the pool's daemons, with paths as they see them.

    Args:
        port: TCP port of everything, on the loopback interface.
        slots: Cores to advertise; may exceed the machine's.
    """
    return _DAEMONS.format(port=port, slots=slots, memory_mb=slots * _MEMORY_MB_PER_SLOT, domain=DOMAIN)


def client_config(port: int, tokens: Path) -> str:
    """Return the configuration of a client outside the pool's root.

    Args:
        port: The pool's port.
        tokens: Folder with the token.
    """
    return _CLIENT.format(port=port, tokens=tokens)
